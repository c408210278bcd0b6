"""Curves: stored losses of single tokens, averaged in buckets, with an interval over documents.

Every function takes per-token values of each document: the losses of a run (`Run.nll`), or the
differences of two runs' losses, whose curve is the paired gain. Token ids are not stored with
runs; curves that need them take them as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.statistics.clusters import cluster_sums
from tta_bench.statistics.paired import Estimate, clustered_ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Bucket:
    """The tokens whose position, frequency, occurrence or distance lies in low <= x < high.

    Attributes:
        low: the first x of the bucket; 0 in a curve over occurrences or distance: the token's first
            occurrence.
        high: one past the last.
        tokens: how many there are, over all documents.
        estimate: their mean value (nats per token), and its interval over the documents that have
            such tokens.
    """

    low: int
    high: int
    tokens: int
    estimate: Estimate


def log_edges(largest: int, per_octave: int = 1) -> list[int]:
    """Edges 1, 2, 4, ... of buckets that hold 1 to `largest`; each once, the last above it.

    Raises:
        ValueError: `largest` or `per_octave` below 1.
    """
    if largest < 1 or per_octave < 1:
        raise ValueError("edges need a largest value and buckets an octave of at least 1.")
    edges, step = [1], 0
    while edges[-1] <= largest:
        step += 1
        edge = round(2 ** (step / per_octave))
        if edge > edges[-1]:
            edges.append(edge)
    return edges


def by_position(
    values: Sequence[NDArray],
    edges: Sequence[int] | None = None,
    clusters: Sequence[str] | None = None,
) -> list[Bucket]:
    """The curve over the place of a scored token in its document, counted from 1.

    Args:
        values: [n_g] for each document g.
        edges: rising; powers of two by default.
        clusters: a label for each document (`clusters_of`); by default all are independent.
    """
    import numpy as np

    places = [np.arange(1, len(vector) + 1) for vector in values]
    return _curve(values, places, edges, (), clusters)


def by_frequency(
    values: Sequence[NDArray],
    ids: Sequence[NDArray],
    counts: NDArray | None = None,
    edges: Sequence[int] | None = None,
    clusters: Sequence[str] | None = None,
) -> list[Bucket]:
    """The curve over how often a token occurs.

    Args:
        values: [n_g] for each document g.
        ids: all token ids of each document; those scored are its last n_g.
        counts: [vocabulary] occurrences of each token in the text that defines its frequency, such
            as training text; by default all documents of `ids` together.
        edges: rising; by default powers of two, after 0 for tokens that `counts` has not seen.
        clusters: a label for each document, as in `by_position`.
    """
    import numpy as np

    _check(values, ids)
    if counts is None:
        counts = np.bincount(np.concatenate([np.asarray(x, dtype=np.int64) for x in ids]))
    known = np.asarray(counts)
    places = [known[_scored(x, v)] for v, x in zip(values, ids, strict=True)]
    return _curve(values, places, edges, (0,), clusters)


def by_distance(
    values: Sequence[NDArray],
    ids: Sequence[NDArray],
    edges: Sequence[int] | None = None,
    clusters: Sequence[str] | None = None,
) -> list[Bucket]:
    """The curve over how many tokens ago the same token last stood in the document.

    A token that the document has not had yet counts as distance 0 and has a bucket of its own.

    Args:
        values: [n_g] for each document g.
        ids: all token ids of each document; those scored are its last n_g.
        edges: rising; by default 0, then powers of two.
        clusters: a label for each document, as in `by_position`.
    """
    _check(values, ids)
    places = [_scored(last_distances(x), v) for v, x in zip(values, ids, strict=True)]
    return _curve(values, places, edges, (0,), clusters)


def by_occurrence(
    values: Sequence[NDArray],
    ids: Sequence[NDArray],
    edges: Sequence[int] | None = None,
    clusters: Sequence[str] | None = None,
) -> list[Bucket]:
    """The curve over how often the document has had the same token before.

    Args:
        values: [n_g] for each document g.
        ids: all token ids of each document; those scored are its last n_g.
        edges: rising; by default 0, then powers of two.
        clusters: a label for each document, as in `by_position`.
    """
    _check(values, ids)
    places = [_scored(earlier_occurrences(x), v) for v, x in zip(values, ids, strict=True)]
    return _curve(values, places, edges, (0,), clusters)


def by_kind(
    values: Sequence[NDArray], kinds: Sequence[NDArray], clusters: Sequence[str] | None = None
) -> list[Bucket]:
    """A bucket for each kind of token, whose `low` it is.

    Args:
        values: [n_g] for each document g.
        kinds: [n_g] the kind of each token: 0, 1, ...
        clusters: a label for each document, as in `by_position`.
    """
    number = 1 + max((int(x.max()) for x in kinds if len(x)), default=0)
    return _curve(values, kinds, range(number + 1), (), clusters)


def earlier_occurrences(ids: NDArray) -> NDArray[np.int64]:
    """[n] Number of the same token before each token."""
    import numpy as np

    tokens = np.asarray(ids)
    order = np.argsort(tokens, kind="stable")  # equal tokens side by side, in order of place
    places = np.arange(len(tokens))
    first = np.ones(len(tokens), dtype=bool)
    first[1:] = tokens[order[1:]] != tokens[order[:-1]]
    start = np.maximum.accumulate(np.where(first, places, 0))  # where the run of equals begins
    earlier = np.empty(len(tokens), dtype=np.int64)
    earlier[order] = places - start
    return earlier


def last_distances(ids: NDArray) -> NDArray[np.int64]:
    """[n] Distance from each token back to its last occurrence; 0 if there is none."""
    import numpy as np

    tokens = np.asarray(ids)
    order = np.argsort(tokens, kind="stable")  # equal tokens side by side, in order of place
    again = tokens[order[1:]] == tokens[order[:-1]]
    distances = np.zeros(len(tokens), dtype=np.int64)
    distances[order[1:][again]] = (order[1:] - order[:-1])[again]
    return distances


def _scored(ids: NDArray, values: NDArray) -> NDArray:
    return ids[len(ids) - len(values) :]


def _check(values: Sequence[NDArray], ids: Sequence[NDArray]) -> None:
    if len(values) != len(ids):
        raise ValueError("as many documents of token ids as of losses are needed.")
    if any(len(x) < len(v) for v, x in zip(values, ids, strict=True)):
        raise ValueError("a document has fewer token ids than losses.")


def _curve(
    values: Sequence[NDArray],
    places: Sequence[NDArray],
    edges: Sequence[int] | None,
    before: tuple[int, ...],
    clusters: Sequence[str] | None,
) -> list[Bucket]:
    """The buckets that hold tokens; values outside the edges are left out."""
    import numpy as np

    if edges is None:
        largest = max((int(x.max()) for x in places if len(x)), default=1)
        edges = [*before, *log_edges(max(1, largest))]
    number = len(edges) - 1
    sums, sizes = np.zeros((len(values), number)), np.zeros((len(values), number))
    for g, (vector, place) in enumerate(zip(values, places, strict=True)):
        bucket = np.searchsorted(edges, place, side="right") - 1
        inside = (bucket >= 0) & (bucket < number)
        weights = np.asarray(vector, dtype=np.float64)[inside]
        sums[g] = np.bincount(bucket[inside], weights, number)
        sizes[g] = np.bincount(bucket[inside], minlength=number)
    own = [str(g) for g in range(len(values))] if clusters is None else clusters
    curve = []
    for k in range(number):
        has = sizes[:, k] > 0
        if has.any():
            labels = [label for label, there in zip(own, has, strict=True) if there]
            estimate = clustered_ratio(
                cluster_sums(sums[has, k].tolist(), labels),
                cluster_sums(sizes[has, k].tolist(), labels),
            )
            curve.append(Bucket(edges[k], edges[k + 1], int(sizes[:, k].sum()), estimate))
    return curve
