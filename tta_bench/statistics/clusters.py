"""Which documents count as one: equal texts, and all that a method read without a reset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tta_bench.store import Done, Row, Run

NEVER_RESET = "documents depend on each other, since the method is never reset: no interval, no p"


def never_reset(run: Run) -> bool:
    """Whether the method kept what it learned from one document to the next."""
    return run.manifest["protocol"].get("reset") == "never"


def clusters_of(rows: Sequence[Row], dependent: bool = False) -> list[str]:
    """A label for each document; those of one label are one observation.

    Copies of a text say nothing that the first does not say, so the label is the text's hash. A
    document whose hash is not known stands for itself.

    Args:
        rows: documents.
        dependent: whether what was read before changes what is predicted; then all are one.
    """
    if dependent:
        return ["all"] * len(rows)
    return [row.sha256 or f"key {row.key}" for row in rows]


def cluster_labels(done: Done, dependent: bool = False) -> list[str]:
    """`clusters_of` the documents that a run has done."""
    if dependent:
        return ["all"] * len(done.keys)
    pairs = zip(done.hashes, done.keys, strict=True)
    return [text or f"key {key}" for text, key in pairs]


def cluster_sums(values: Sequence[float], clusters: Sequence[str]) -> list[float]:
    """The sum of the values of each cluster, in the order of their first documents."""
    sums: dict[str, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums[cluster] + value if cluster in sums else value
    return list(sums.values())


def one_cluster(documents: int, dependent: bool) -> str:
    """Why there is no interval over documents that are all one cluster."""
    if documents == 1:
        return "one document: an interval needs at least two"
    if dependent:
        return NEVER_RESET
    return f"{documents:,} documents, 1 of them distinct: an interval needs at least two"
