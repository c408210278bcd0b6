"""Quality against the costs of a run, and the front of what nothing beats at its cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tta_bench.format import BREAK, fixed, listed
from tta_bench.metrics.difference import delta_text
from tta_bench.report.axes import Axis, Scale, axes_of
from tta_bench.report.figure import Figure, Series, padded
from tta_bench.report.reach import near
from tta_bench.store.key import setting
from tta_bench.tables.costs import front
from tta_bench.tables.row import run_rows

if TYPE_CHECKING:
    from tta_bench.store import Run

FRONT_NOTE = "Down and to the left is better; the grey stairs join what nothing beats at its cost."
CONTEXT_NOTE = "Hollow: with so many tokens of context; dots join one method's contexts."


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
    """The plots of a family, and a sentence for whatever is in none of them.

    Args:
        runs: runs that differ in method and context alone (`families`).
        slots: the place of each method in the palette.
        prefix: start of the figures' names.
    """
    rows = run_rows(runs)
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
    figures, without = [], []
    for axis in axes_of([point.row for point in points]):
        known = [point for point in points if axis.of(point.row) is not None]
        if len(known) < 2:
            without.append(axis.title)
            continue
        figures.append(_figure(axis, known, unit, slots, prefix))
    if without:
        sentences.append(f"{listed(without)}: fewer than two ranked runs have both numbers.")
    return figures, sentences


def _figure(
    axis: Axis, points: Sequence[Point], unit: str, slots: Mapping[str, int], prefix: str
) -> Figure:
    values = {id(point): axis.of(point.row) or 0.0 for point in points}
    scale = Scale.of(list(values.values()))
    at = {place: scale.place(value) for place, value in values.items()}
    pairs = [(at[id(point)], point.quality) for point in points]
    edge = [pairs[place] for place in front(pairs)]
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
                hover=tuple(_hover(point, axis, values[id(point)], unit) for point in mine),
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
    beyond = [point for point in points if scale.end and at[id(point)] > scale.end]
    if beyond:
        away = listed(f"{point.label} ({axis.text(values[id(point)])})" for point in beyond)
        captions.append(f"Right of the plot: {away}.")
    return Figure(
        name=f"{prefix}quality-{axis.cost.name}",
        title=axis.title,
        caption=" ".join(captions),
        x_title=axis.x_title,
        y_title=unit,
        series=tuple(series),
        y_range=padded(min(point.quality for point in points), top, 0.1),
        x_ticks=scale.ticks,
        x_log=scale.log,
        x_range=scale.range_of(list(at.values())),
        x_prefixes=axis.prefixes,
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


def _hover(point: Point, axis: Axis, value: float, unit: str) -> tuple[str, ...]:
    row = point.row
    lines = [point.label, f"{fixed(point.quality, 4)} {unit}", axis.text(value)]
    if row["delta_nats_per_token"] is not None:
        lines.append(f"Δ {delta_text(row).replace(BREAK, '')} nats/token vs none")
    return tuple(lines)
