"""What a run lost on answers: tokens that its documents had told before, and then asked for.

`oracle:recall` and `oracle:copy` say by their draws which tokens those are, rows of documents with
planted sentences say it themselves. A loss can fall while nothing is remembered, so beside the loss
stands the share of answers that are exact: tokens that were the most probable ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tta_bench.errors import BenchError
from tta_bench.oracle.name import control_of, is_oracle, is_planted
from tta_bench.statistics.best_reader import best_of
from tta_bench.statistics.clusters import cluster_sums, clusters_of, never_reset
from tta_bench.statistics.paired import Estimate, clustered_ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tta_bench.store import Row, Run


@dataclass(frozen=True)
class Recalled:
    """Answers whose lag is in a range, over the documents that have such.

    Attributes:
        low: the least lag, tokens.
        high: one more than the greatest.
        tokens: number of tokens of answers.
        nll: nats per token.
        exact: share of tokens that were the most probable; None where that was not stored.
        control: nats per token where the answers had never been told; None without controls.
        control_exact: share of tokens that were the most probable there; likewise.
        gained: control minus loss on the same tokens, nats per token; likewise.
    """

    low: int
    high: int
    tokens: int
    nll: Estimate
    exact: Estimate | None
    control: Estimate | None = None
    control_exact: Estimate | None = None
    gained: Estimate | None = None


def asks(run: Run) -> bool:
    """Whether the documents of a run ask for what they told."""
    spec = run.manifest["dataset"].get("spec")
    if not is_oracle(spec):
        return is_planted(spec)
    from tta_bench.oracle.spec import stream_of

    return stream_of(spec).asks


@lru_cache(maxsize=64)
def recalled(run: Run) -> Recalled | None:
    """All answers of a run; None where its documents ask for nothing.

    Raises:
        BenchError: the losses of single tokens, or the places of answers, are not known.
    """
    found = _documents(run)
    return _over(run, found, 1, 1 << 62) if found else None


@lru_cache(maxsize=64)
def recalled_by_lag(run: Run) -> list[Recalled]:
    """The answers of a run by doublings of their lag, those ranges alone that have answers.

    Raises:
        BenchError: as `recalled`.
    """
    import numpy as np

    found = _documents(run)
    lags = [one.lags[one.lags > 0] for one in found]
    if not lags:
        return []
    powers = np.unique(np.floor(np.log2(np.concatenate(lags))).astype(int)).tolist()
    ranges = [_over(run, found, 1 << power, 2 << power) for power in powers]
    return [one for one in ranges if one is not None]


@dataclass(frozen=True, eq=False)
class _Document:
    """What is known of the scored tokens of a document in which answers had been told."""

    row: Row
    lags: NDArray[np.int64]
    nll: NDArray[np.float32]
    top1: NDArray[np.bool_] | None
    control: _Document | None


def _documents(run: Run) -> list[_Document]:
    best = best_of(run)
    rows = [row for row in run.rows if row.status == "done"]
    if best is not None:
        found = [_read(run, row, best[row.index].lags) for row in rows]
        return [one for one in found if one.lags.any()]
    if not is_planted(run.manifest["dataset"].get("spec")):
        return []
    if any(row.asked is None for row in rows):
        raise BenchError("the protocol leaves tokens unscored, so that answers have no place.")
    controls = {row.key: row for row in rows if row.asked and not row.asked.planted}
    return [
        _read(run, row, _lags(row), controls.get(control_of(row.key)))
        for row in rows
        if row.asked and row.asked.planted
    ]


def _lags(row: Row) -> NDArray[np.int64]:
    import numpy as np

    lags = np.zeros(row.tokens, np.int64)
    for start, stop, lag in row.asked.answers if row.asked else ():
        lags[start:stop] = lag
    return lags


def _read(run: Run, row: Row, lags: NDArray[np.int64], control: Row | None = None) -> _Document:
    top1 = None if row.top1 is None else run.top1(row)
    other = None if control is None else _read(run, control, _lags(control))
    return _Document(row, lags, run.nll(row), top1, other)


def _over(run: Run, documents: Sequence[_Document], low: int, high: int) -> Recalled | None:
    def inside(one: _Document) -> NDArray[np.bool_]:
        return (low <= one.lags) & (one.lags < high)

    some = [one for one in documents if inside(one).any()]
    if not some:
        return None
    counts = [float(inside(one).sum()) for one in some]
    dependent = never_reset(run)

    def estimate(values: Sequence[float], sizes: Sequence[float], of: list[_Document]) -> Estimate:
        clusters = clusters_of([one.row for one in of], dependent)
        return clustered_ratio(cluster_sums(values, clusters), cluster_sums(sizes, clusters))

    def lost(one: _Document) -> float:
        return float(one.nll[inside(one)].sum(dtype=float))

    def share(of: list[_Document]) -> Estimate | None:
        right = [float(one.top1[inside(one)].sum()) for one in of if one.top1 is not None]
        sizes = [float(inside(one).sum()) for one in of]
        return estimate(right, sizes, of) if len(right) == len(of) else None

    whole = Recalled(
        low, high, int(sum(counts)), estimate([*map(lost, some)], counts, some), share(some)
    )
    pairs = [(one, one.control) for one in some if one.control is not None]
    if len(pairs) < len(some):
        return whole
    controls = [other for _, other in pairs]
    gained = [lost(other) - lost(one) for one, other in pairs]
    return Recalled(
        *(low, high, whole.tokens, whole.nll, whole.exact),
        estimate([*map(lost, controls)], counts, controls),
        share(controls),
        estimate(gained, counts, some),
    )
