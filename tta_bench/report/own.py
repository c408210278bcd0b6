"""Figures that methods have of their own on each document, such as how much of a projection is new.

Names with a common start, up to the last stroke, are one figure: `added/model.layers.0.mlp` and
`added/model.layers.6.mlp` are two marks of `added`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tta_bench.report.curves import curve_figure
from tta_bench.report.figure import Figure
from tta_bench.statistics import Bucket, clustered_ratio, clusters_of, never_reset
from tta_bench.statistics.clusters import cluster_sums

if TYPE_CHECKING:
    from tta_bench.store import Row, Run


def own_figures(runs: Sequence[Run], slots: Mapping[str, int], prefix: str = "") -> list[Figure]:
    """A figure for each kind of them, the mean over documents at each name; none has no figure.

    Args:
        runs: the runs of one setting.
        slots: the place of each method in the palette.
        prefix: start of the figures' names.
    """
    names = dict.fromkeys(name for run in runs for row in run.rows for name in row.figures or {})
    kinds: dict[str, list[str]] = {}
    for name in names:
        head, stroke, rest = name.rpartition("/")
        kinds.setdefault(head if stroke else rest, []).append(name)
    return [_figure(kind, members, runs, slots, prefix) for kind, members in kinds.items()]


def _figure(
    kind: str, names: Sequence[str], runs: Sequence[Run], slots: Mapping[str, int], prefix: str
) -> Figure:
    curves = []
    for run in runs:
        found = [(place, _known(run, name)) for place, name in enumerate(names)]
        buckets = [_bucket(run, place, known) for place, known in found if known]
        if buckets:
            curves.append((run.spec, buckets))
    ticks, place = short_names([name.rpartition("/")[2] for name in names])
    plain = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    return curve_figure(
        f"{prefix}own-{plain}",
        f"Of the methods themselves: {kind}",
        "The mean over documents of what the method says of each, once it has read it.",
        place,
        kind,
        curves,
        slots,
        "tokens",
        signed=False,
        kinds=ticks,
        unit=kind,
    )


def _known(run: Run, name: str) -> list[tuple[Row, float]]:
    """The documents for which a run has this figure, and the figure."""
    pairs = [(row, (row.figures or {}).get(name)) for row in run.rows if row.status == "done"]
    return [(row, value) for row, value in pairs if value is not None]


def _bucket(run: Run, place: int, known: Sequence[tuple[Row, float]]) -> Bucket:
    rows = [row for row, _ in known]
    clusters = clusters_of(rows, never_reset(run))
    sums = cluster_sums([value for _, value in known], clusters)
    estimate = clustered_ratio(sums, cluster_sums([1.0] * len(rows), clusters))
    return Bucket(place, place + 1, sum(row.tokens for row in rows), estimate)


def short_names(names: Sequence[str]) -> tuple[list[str], str]:
    """What tells dotted names apart, and what they share, with `*` in its place.

    `model.layers.0.mlp` and `model.layers.6.mlp` are `0` and `6` of `model.layers.*.mlp`.
    """
    parts = [name.split(".") for name in names]
    if len(names) < 2 or len({len(part) for part in parts}) > 1:
        return list(names), "name"
    columns = list(zip(*parts, strict=True))
    differ = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    first, last = differ[0], differ[-1] + 1
    shared = [*parts[0][:first], "*", *parts[0][last:]]
    return [".".join(part[first:last]) for part in parts], ".".join(shared)
