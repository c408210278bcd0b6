"""The regret of every method: what it loses more than the best possible reader, over position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from tta_bench.errors import BenchError
from tta_bench.report.curves import curve_figure, over_position
from tta_bench.report.figure import Figure
from tta_bench.report.gains import Losses
from tta_bench.statistics import Bucket, clustered_ratio, log_edges
from tta_bench.statistics.best_reader import best_of
from tta_bench.statistics.clusters import cluster_sums

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REGRET_NOTE = (
    "The best possible reader of these documents is known exactly. Regret is what a method loses "
    "beyond it on the same tokens. A curve of regret per token that reaches 0 has learned all "
    "there is; a cumulative one that goes flat has, too, and its height is what learning cost."
)


def regret_figures(
    losses: Sequence[Losses], slots: Mapping[str, int], prefix: str = ""
) -> tuple[list[Figure], list[str]]:
    """Regret per token, and since the start against both readers; and a sentence where it fails.

    Nothing for documents whose best reader nobody knows.

    Args:
        losses: losses of the runs of one setting.
        slots: the place of each method in the palette.
        prefix: start of the figures' names.
    """
    try:
        if not losses or best_of(losses[0].run) is None:
            return [], []
        knowing = [_regret(item, "knowing") for item in losses]
        learning = [_regret(item, "learning") for item in losses]
    except BenchError as error:
        return [], [f"No regret: {error}"]
    place = "position in the document, scored tokens"
    figures = [
        curve_figure(
            f"{prefix}regret-by-position",
            "Regret by position in the document",
            "Against the best reader that knows the alphabet.",
            place,
            "regret, nats per token",
            [(item.run.spec, over_position(item)) for item in knowing],
            slots,
            "tokens",
        )
    ]
    readers = (
        ("knowing", knowing, "Against the best reader that knows the alphabet."),
        ("learning", learning, "Against the best reader that must find the alphabet, too."),
    )
    for name, items, caption in readers:
        figures.append(
            curve_figure(
                f"{prefix}cumulative-regret-{name}",
                f"Cumulative regret, alphabet {'known' if name == 'knowing' else 'unknown'}",
                f"{caption} A point stands for all tokens up to its mark.",
                place,
                "regret since the start, nats per document",
                [(item.run.spec, cumulative(item.values, item.clusters)) for item in items],
                slots,
                "tokens",
                unit="nats/document",
            )
        )
    return figures, []


def cumulative(values: Sequence[NDArray], clusters: Sequence[str]) -> list[Bucket]:
    """The mean over documents of the sum of their first 1, 2, 4, ... values, and of all.

    Args:
        values: [n_g] for each document g.
        clusters: a label for each document.
    """
    longest = max(map(len, values))
    edges = [edge for edge in log_edges(longest) if edge < longest] + [longest]
    buckets = []
    for edge in edges:
        long = [place for place, vector in enumerate(values) if len(vector) >= edge]
        of = [clusters[place] for place in long]
        sums = cluster_sums([float(values[place][:edge].sum(dtype=float)) for place in long], of)
        estimate = clustered_ratio(sums, cluster_sums([1.0] * len(long), of))
        buckets.append(Bucket(edge, edge + 1, edge * len(long), estimate))
    return buckets


def _regret(item: Losses, reader: Literal["knowing", "learning"]) -> Losses:
    """A run's losses with the best reader's taken away."""
    best = best_of(item.run) or {}
    pairs = zip(item.rows, item.values, strict=True)
    values: list[NDArray[np.float32]] = [
        (vector - getattr(best[row.index], reader)).astype("float32") for row, vector in pairs
    ]
    return Losses(item.run, item.rows, tuple(values))
