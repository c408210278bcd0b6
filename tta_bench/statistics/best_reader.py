"""What the best possible reader of a run's documents loses, and the grade of a method by it.

The documents of an `oracle:` stream are drawn anew from what manifest and rows say, and believed
only where their hash is that of the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tta_bench.errors import BenchError
from tta_bench.oracle.name import is_oracle
from tta_bench.statistics.clusters import cluster_sums, clusters_of, never_reset
from tta_bench.statistics.paired import Estimate, clustered_ratio, paired_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tta_bench.oracle.best import BestReader
    from tta_bench.store import Row, Run

LATE = 0.5
"""The part of a document that is burn-in where only late tokens count."""


@dataclass(frozen=True, eq=False)
class Best:
    """The losses of the best reader on the scored tokens of a document.

    Attributes:
        knowing: [tokens] nats of the reader that knows the alphabet.
        learning: [tokens] nats of the one that must find it in the vocabulary.
        lags: [tokens] how many tokens before each answer it was told; 0 where none is asked for.
    """

    knowing: NDArray
    learning: NDArray
    lags: NDArray


@lru_cache(maxsize=32)
def best_of(run: Run) -> dict[int, Best] | None:
    """The best reader of each document that is done, by its index; None for other datasets.

    Raises:
        BenchError: the documents cannot be drawn again, or tokens were left out in between.
    """
    dataset = run.manifest["dataset"]
    rows = [row for row in run.rows if row.status == "done"]
    if not is_oracle(dataset.get("spec")) or not rows:
        return None
    from tta_bench.oracle.best import best_readers
    from tta_bench.oracle.spec import LENGTH

    vocabulary, count = dataset.get("vocabulary"), dataset.get("documents")
    length = dataset.get("max_tokens") or LENGTH
    if not all(isinstance(number, int) for number in (vocabulary, count, length)):
        raise BenchError(f"the manifest of {run.path} does not say what its symbols were.")
    if any(row.index >= count for row in rows):
        raise BenchError(f"{run.path} has more documents than its manifest says.")
    # Of the whole dataset, so that other runs on it, and parts of this one, find it done.
    readers = best_readers(dataset["spec"], count, length, vocabulary)
    return {row.index: _scored(row, readers[row.index]) for row in rows}


def _scored(row: Row, reader: BestReader) -> Best:
    if row.sha256 != reader.sha256:
        raise BenchError(
            f"document {row.key} holds other symbols than are drawn here; use the version of "
            "tta-bench that made the run."
        )
    left_out = len(reader.knowing) - row.tokens
    if left_out not in (0, 1):
        raise BenchError(f"the protocol leaves tokens of {row.key} unscored in between.")
    return Best(reader.knowing[left_out:], reader.learning[left_out:], reader.lags[left_out:])


@dataclass(frozen=True)
class Grade:
    """A method on an `oracle:` stream.

    The share of the attainable gain, (L_none - L_method) / (L_none - L_best), is a ratio of sums
    over the documents that both have done; its interval is that of `clustered_ratio`, linearised by
    leaving out one document at a time. Without a gain to attain, or for `none` itself, it is None.

    Attributes:
        share: against the reader that knows the alphabet.
        share_learning: against the one that must find it.
        share_late: against the first, after the burn-in; None without the losses of single tokens.
        regret: sum of L_method - L_best against the first, nats per document.
        regret_learning: against the second.
    """

    share: Estimate | None
    share_learning: Estimate | None
    share_late: Estimate | None
    regret: Estimate
    regret_learning: Estimate


@lru_cache(maxsize=128)
def grade_of(run: Run, frozen: Run | None) -> Grade | None:
    """The grade of a run; None for other datasets.

    Args:
        run: the run of the method.
        frozen: the run of `none`; None if there is none.

    Raises:
        BenchError: as `best_of`.
    """
    best = best_of(run)
    if best is None:
        return None
    rows = [row for row in run.rows if row.status == "done"]
    knowing = [math.fsum(best[row.index].knowing) for row in rows]
    learning = [math.fsum(best[row.index].learning) for row in rows]
    clusters = clusters_of(rows, never_reset(run))

    def regret(sums: Sequence[float]) -> Estimate:
        lost = [(row.nll or 0.0) - found for row, found in zip(rows, sums, strict=True)]
        ones = cluster_sums([1.0] * len(rows), clusters)
        return clustered_ratio(cluster_sums(lost, clusters), ones)

    shares = (None, None, None) if frozen is None or frozen is run else _shares(run, frozen, best)
    return Grade(*shares, regret(knowing), regret(learning))


def _shares(
    run: Run, frozen: Run, best: dict[int, Best]
) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    if paired_difference(run.rows, frozen.rows).delta is None:
        return None, None, None
    theirs = {row.key: row for row in frozen.rows if row.status == "done"}
    pairs = [(r, theirs[r.key]) for r in run.rows if r.status == "done" and r.key in theirs]
    dependent = never_reset(run) or never_reset(frozen)
    clusters = clusters_of([row for row, _ in pairs], dependent)
    mine = [row.nll or 0.0 for row, _ in pairs]
    none = [other.nll or 0.0 for _, other in pairs]
    known = [best[row.index] for row, _ in pairs]
    whole = _share(none, mine, [math.fsum(b.knowing) for b in known], clusters)
    learned = _share(none, mine, [math.fsum(b.learning) for b in known], clusters)
    try:
        late = _share(
            [_late(frozen.nll(other)) for _, other in pairs],
            [_late(run.nll(row)) for row, _ in pairs],
            [_late(b.knowing) for b in known],
            clusters,
        )
    except BenchError:  # the losses of single tokens were not published
        late = None
    return whole, learned, late


def _late(values: NDArray) -> float:
    return math.fsum(values[math.ceil(LATE * len(values)) :])


def _share(
    none: Sequence[float], mine: Sequence[float], best: Sequence[float], clusters: Sequence[str]
) -> Estimate | None:
    gained = cluster_sums([a - b for a, b in zip(none, mine, strict=True)], clusters)
    attainable = cluster_sums([a - b for a, b in zip(none, best, strict=True)], clusters)
    total = math.fsum(attainable)
    # Without any one document, too, something must be left to divide by.
    without = [total - one for one in attainable] if len(attainable) > 1 else [total]
    return clustered_ratio(gained, attainable) if min(total, *without) > 0 else None
