"""Quality against FLOPs, time and memory, and the front of what nothing beats at its cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tta_bench.format import BREAK, binary, fixed, listed, si
from tta_bench.metrics.difference import delta_text
from tta_bench.report.figure import Figure, Series, padded
from tta_bench.store.key import setting
from tta_bench.tables.row import summary_rows

if TYPE_CHECKING:
    from tta_bench.store import Run

FRONT_NOTE = "Down and to the left is better; the grey stairs join what nothing beats at its cost."
CONTEXT_NOTE = "Hollow: with so many tokens of context; dots join one method's contexts."
LOG_FROM = 10.0
"""Costs that differ by more than this factor stand on a logarithmic axis."""
FAR = 1.5
"""Runs worse than the others by more than this times the others' range are outside the plot."""


@dataclass(frozen=True)
class Point:
    """A run among those it shares a plot with.

    Attributes:
        run: the run.
        row: its row in the summary table.
        context: `context 1024`; empty without context.
        quality: bits per byte or nats per token; lower is better.
    """

    run: Run
    row: Mapping[str, Any]
    context: str
    quality: float

    @property
    def label(self) -> str:
        """`none, context 1024`."""
        return f"{self.run.spec}, {self.context}" if self.context else self.run.spec


@dataclass(frozen=True)
class Cost:
    """An axis: a column of the summary table, in the unit of the plot."""

    name: str
    title: str
    column: str
    x_title: str
    prefixes: bool = False
    scale: float = 1.0
    inverse: bool = False

    def of(self, point: Point) -> float | None:
        """The cost of a run; None if it is not known."""
        value = point.row.get(self.column)
        if not value or value <= 0:
            return None
        return self.scale / value if self.inverse else value * self.scale

    def text(self, value: float) -> str:
        """The cost with its unit."""
        if self.name == "flops":
            return f"{si(value)}FLOPs/token"
        if self.name == "time":
            return f"{fixed(1e6 * value, 1)} µs/token, {fixed(1 / value, 0)} tokens/s"
        return f"{binary(value * 2**30, 30)} GiB"


FLOPS = Cost(
    "flops", "Quality against FLOPs", "flops_per_token", "FLOPs per scored token", prefixes=True
)
TIME = Cost(
    "time",
    "Quality against time",
    "tokens_per_second",
    "time per token, s",
    prefixes=True,
    inverse=True,
)


def memory(on_gpu: bool) -> Cost:
    """Peak memory as the summary table shows it."""
    kind = "allocated" if on_gpu else "process"
    title = "peak memory, GiB " + ("allocated" if on_gpu else "of the process")
    return Cost("memory", "Quality against memory", f"peak_{kind}_bytes", title, scale=1 / 2**30)


def families(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in groups that differ in method and context alone, so that they share a plot."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        alike = setting(run.manifest)
        protocol = {k: v for k, v in alike["protocol"].items() if not k.startswith("context")}
        key = json.dumps([alike | {"protocol": protocol}, run.device], sort_keys=True)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def context_of(run: Run) -> str:
    """`context 1024`, `context 3072 (cache)`, or nothing; context read again is the usual mode."""
    protocol = run.manifest["protocol"]
    if not protocol.get("context"):
        return ""
    mode = protocol.get("context_mode")
    return f"context {protocol['context']}" + ("" if mode == "recompute" else f" ({mode})")


def cost_figures(
    runs: Sequence[Run], slots: Mapping[str, int], prefix: str = ""
) -> tuple[list[Figure], list[str]]:
    """The three plots of a family, and a sentence for each run that is in none of them.

    Args:
        runs: runs that differ in method and context alone (`families`).
        slots: the place of each method in the palette.
        prefix: start of the figures' names.
    """
    rows = summary_rows(runs)
    ranked = [(run, row) for run, row in zip(runs, rows, strict=True) if row["ranked"]]
    in_bytes = all(row["bits_per_byte"] is not None for _, row in ranked)
    points = [
        Point(
            run,
            row,
            context_of(run),
            row["bits_per_byte"] if in_bytes else row["nll"] / row["tokens"],
        )
        for run, row in ranked
    ]
    sentences = []
    outside = [run for run, row in zip(runs, rows, strict=True) if not row["ranked"]]
    if outside:
        names = listed(Point(run, {}, context_of(run), 0.0).label for run in outside)
        sentences.append(
            f"Not in these plots, since they are not ranked (failed, unfinished, not known to be "
            f"valid, or of random weights): {names}."
        )
    unit = "bits per byte" if in_bytes else "nats per token"
    figures = []
    for cost in (FLOPS, TIME, memory(bool(rows) and rows[0]["device"].startswith("cuda"))):
        known = [point for point in points if cost.of(point) is not None]
        if len(known) < 2:
            sentences.append(f"{cost.title}: fewer than two ranked runs have both numbers.")
            continue
        figures.append(_figure(cost, known, unit, slots, prefix))
    return figures, sentences


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The pairs of cost and loss that no other matches or beats in both, by rising cost."""
    best: list[tuple[float, float]] = []
    for cost, loss in sorted(points):
        if not best or loss < best[-1][1]:
            best.append((cost, loss))
    return best


def near(values: Sequence[float]) -> float:
    """The largest value that a plot should reach: one far above all others would flatten them."""
    rising = sorted(values)
    while len(rising) > 2:
        span = rising[-2] - rising[0]
        if span == 0 or rising[-1] - rising[-2] <= FAR * span:
            break
        rising.pop()
    return rising[-1]


def _figure(
    cost: Cost, points: Sequence[Point], unit: str, slots: Mapping[str, int], prefix: str
) -> Figure:
    at = {id(point): cost.of(point) or 0.0 for point in points}
    edge = front([(at[id(point)], point.quality) for point in points])
    series = [
        Series("front", "front", 0, tuple(x for x, _ in edge), tuple(y for _, y in edge)),
        *_guides(points, at, slots),
    ]
    for spec in dict.fromkeys(point.run.spec for point in points):
        mine = [point for point in points if point.run.spec == spec]
        series.append(
            Series(
                "points",
                spec,
                slots[spec],
                tuple(at[id(point)] for point in mine),
                tuple(point.quality for point in mine),
                hover=tuple(_hover(point, cost, at[id(point)], unit) for point in mine),
                tags=tuple(point.context.removeprefix("context ") for point in mine),
                hollow=tuple(bool(point.context) for point in mine),
            )
        )
    top = near([point.quality for point in points])
    far = [point for point in points if point.quality > top]
    captions = []
    if any(point.context for point in points):
        captions.append(CONTEXT_NOTE)
    if far:
        away = listed(f"{point.label} ({fixed(point.quality, 3)})" for point in far)
        captions.append(f"Above the plot: {away}.")
    costs = list(at.values())
    return Figure(
        name=f"{prefix}quality-{cost.name}",
        title=cost.title,
        caption=" ".join(captions),
        x_title=cost.x_title,
        y_title=unit,
        series=tuple(series),
        y_range=padded(min(point.quality for point in points), top, 0.1),
        x_log=max(costs) > LOG_FROM * min(costs),
        x_prefixes=cost.prefixes,
    )


def _guides(
    points: Sequence[Point], at: Mapping[int, float], slots: Mapping[str, int]
) -> list[Series]:
    """A dotted line for each method from no context to ever more."""
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        mode = point.run.manifest["protocol"].get("context_mode") or "none"
        lines.setdefault((point.run.spec, mode), []).append(point)
    guides = []
    for (spec, mode), further in lines.items():
        if mode == "none":
            continue
        whole = sorted(
            [*lines.get((spec, "none"), []), *further],
            key=lambda point: point.run.manifest["protocol"].get("context") or 0,
        )
        if len(whole) > 1:
            xs = tuple(at[id(point)] for point in whole)
            ys = tuple(point.quality for point in whole)
            guides.append(Series("guide", spec, slots[spec], xs, ys))
    return guides


def _hover(point: Point, cost: Cost, value: float, unit: str) -> tuple[str, ...]:
    row = point.row
    lines = [point.label, f"{fixed(point.quality, 4)} {unit}", cost.text(value)]
    if row["delta_nats_per_token"] is not None:
        lines.append(f"Δ {delta_text(row).replace(BREAK, '')} nats/token vs none")
    return tuple(lines)
