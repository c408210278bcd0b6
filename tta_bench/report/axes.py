"""The axes of cost: columns of the summary table, in the unit of a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tta_bench.report.reach import near
from tta_bench.tables.costs import FLOPS, MEMORY, STATE, TIME, Cost

LOG_FROM = 10.0
"""Costs that differ by more than this factor stand on a logarithmic axis."""
WILD = 100.0
"""By less than this factor no run is too far beyond the others for a logarithmic axis."""
END = 1.25
"""An axis that leaves out values ends so far beyond the last that it shows."""
_SECOND = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        cost: what it is an axis of.
        title: heading of the figure.
        x_title: title of the axis, with the unit.
        unit: the unit of the axis, in units of the cost.
        prefixes: whether numbers have decimal prefixes (`10M`).
    """

    cost: Cost
    title: str
    x_title: str
    unit: float = 1.0
    prefixes: bool = False

    def of(self, row: Mapping[str, Any]) -> float | None:
        """Where a row of the summary table stands; None if its cost is not known."""
        cost = self.cost.of(row)
        return None if cost is None else cost / self.unit

    def text(self, value: float) -> str:
        """The cost at a place of the axis, with its unit."""
        return self.cost.text(value * self.unit)


@dataclass(frozen=True)
class Scale:
    """Where values stand on an axis.

    Attributes:
        log: whether the axis is logarithmic.
        zero: where 0 stands on a logarithmic axis, which has no place for it; None if none is 0.
        ticks: marks with their labels; empty leaves them to whoever draws.
        end: where the axis ends if a few values far beyond all others are left out of it.
    """

    log: bool
    zero: float | None = None
    ticks: tuple[tuple[float, str], ...] = ()
    end: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Scale:
        """The scale for these values, none of them negative."""
        some = [value for value in values if value > 0]
        if not some or max(some) <= LOG_FROM * min(some):
            return cls(log=False)
        reach = near([math.log10(value) for value in some], math.log10(WILD))
        inner = [value for value in values if value == 0 or math.log10(value) <= reach]
        if max(inner) * LOG_FROM < max(some):
            inside = cls.of(inner)
            return replace(inside, end=inside.end or max(inner) * END)
        if len(some) == len(values):
            return cls(log=True)
        lowest, highest = (math.floor(math.log10(value)) for value in (min(some), max(some)))
        decades = [10.0**power for power in range(lowest, highest + 2)]
        zero = decades[0] / 10
        return cls(True, zero, ((zero, "0"), *((value, f"{value:g}") for value in decades)))

    def place(self, value: float) -> float:
        """Where the value stands."""
        return self.zero if value == 0 and self.zero is not None else value

    def range_of(self, places: Sequence[float]) -> tuple[float, float] | None:
        """Both ends of an axis that leaves out some of these places; None if it has them all."""
        if self.end is None:
            return None
        return (min(places) / END if self.log else 0.0), self.end


def axes_of(rows: Sequence[Mapping[str, Any]]) -> list[Axis]:
    """FLOPs, time, the state of a lane and, on a GPU, memory.

    The peak of a process says little about a method: most of it is libraries and the model.
    """
    state = "adaptation state per lane, MiB"
    axes = [
        Axis(FLOPS, "Quality against FLOPs", "FLOPs per scored token", prefixes=True),
        _time(rows),
        Axis(STATE, "Quality against state", state, unit=2.0**20),
    ]
    if any(row["device"].startswith("cuda") for row in rows):
        allocated = "peak memory, GiB allocated"
        axes.append(Axis(MEMORY, "Quality against memory", allocated, unit=2.0**30))
    return axes


def _time(rows: Sequence[Mapping[str, Any]]) -> Axis:
    """Time per token, in the unit in which the fastest run is at least 1."""
    fastest = max((row.get("tokens_per_second") or 0.0 for row in rows), default=0.0)
    name, unit = next((one for one in _SECOND if fastest * one[1] <= 1), _SECOND[-1])
    return Axis(TIME, "Quality against time", f"time per token, {name}", unit=unit)
