"""What a run costs, and the front of what nothing beats at its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_bench.format import binary, fixed, si


@dataclass(frozen=True)
class Cost:
    """One kind of cost, lower is better.

    Attributes:
        name: what options and figures call it.
        column: the column of the summary table that it is of.
        text: a cost with its unit.
        inverse: whether the cost is one divided by the column.
        free: whether a run may cost nothing; otherwise a 0 is a number that is not known.
    """

    name: str
    column: str
    text: Callable[[float], str]
    inverse: bool = False
    free: bool = False

    def of(self, row: Mapping[str, Any]) -> float | None:
        """The cost of a row of the summary table; None if it is not known."""
        value = row.get(self.column)
        if value is None or value < 0 or (value == 0 and not self.free):
            return None
        return 1 / value if self.inverse else float(value)


FLOPS = Cost("flops", "flops_per_token", lambda cost: f"{si(cost)}FLOPs/token")
"""FLOPs for a scored token."""
TIME = Cost(
    "time",
    "tokens_per_second",
    lambda cost: f"{fixed(1e6 * cost, 1)} µs/token, {fixed(1 / cost, 0)} tokens/s",
    inverse=True,
)
"""Seconds for a scored token."""
STATE = Cost(
    "state",
    "state_bytes_per_lane",
    lambda cost: f"{binary(cost, 20)} MiB of state per lane",
    free=True,
)
"""Bytes that a method keeps for a document being read."""
MEMORY = Cost("memory", "peak_allocated_bytes", lambda cost: f"{binary(cost, 30)} GiB")
"""Bytes that PyTorch had allocated on a GPU."""


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the pairs of cost and loss that no other matches or beats in both.

    They come by rising cost; of equal pairs the first is taken.
    """
    best: list[int] = []
    for place in sorted(range(len(points)), key=points.__getitem__):
        if not best or points[place][1] < points[best[-1]][1]:
            best.append(place)
    return best
