"""Streams that drift: what a method that is never reset carries from document to document.

Documents of such a stream depend on each other, since what was read before changes what is
predicted. An interval over documents would be too narrow. Here the stream is cut into blocks of
consecutive documents, whose sums depend on each other less the longer the blocks are (batch means,
Conway 1963; Glynn & Whitt 1991), or there is no interval and a sentence says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from tta_bench.errors import BenchError
from tta_bench.statistics.clusters import NEVER_RESET, never_reset
from tta_bench.statistics.curves import Bucket
from tta_bench.statistics.paired import Estimate, clustered_ratio
from tta_bench.store.fresh import fresh_pair

if TYPE_CHECKING:
    from tta_bench.store import Row, Run

FIRST_TOKENS = 1024
"""The first tokens of a document, over which forward transfer is measured."""

BLOCKS = 10
"""Blocks of consecutive documents that an interval is over."""

LEAST_DOCUMENTS = 4 * BLOCKS
"""With fewer documents a block would be hardly longer than one of them."""

NOT_FRESH = (
    "no forward transfer and no return against a fresh start: there is no run with --reset "
    "document beside this one; --fresh makes it"
)


def over_blocks(sums: Sequence[float], sizes: Sequence[float]) -> Estimate:
    """r = sum S_k / sum n_k over documents k in their order, with an interval over blocks of them.

    Ten blocks of consecutive documents, as equal in number as can be, take the place of documents
    in `clustered_ratio`: a t interval with 9 degrees of freedom. There is none with fewer than 40
    documents, nor where the residuals E_b = sum (S_k - r n_k) of neighbouring blocks go together:
    where their correlation at lag one, sum E_b E_b+1 / sum E_b^2, is above 2 / sqrt(10), twice its
    standard error without any dependence.

    Args:
        sums: S_k, such as the summed gain of document k.
        sizes: n_k > 0, such as its tokens.
    """
    count = len(sums)
    whole = clustered_ratio([math.fsum(sums)], [math.fsum(sizes)])
    if count < LEAST_DOCUMENTS:
        reason = f"{count:,} documents: an interval over blocks needs {LEAST_DOCUMENTS}"
        return Estimate(whole.value, count, None, None, reason)
    edges = [round(block * count / BLOCKS) for block in range(BLOCKS + 1)]
    spans = list(pairwise(edges))
    of_sums = [math.fsum(sums[low:high]) for low, high in spans]
    of_sizes = [math.fsum(sizes[low:high]) for low, high in spans]
    left = [s - whole.value * n for s, n in zip(of_sums, of_sizes, strict=True)]
    together = math.fsum(a * b for a, b in pairwise(left))
    spread = math.fsum(one * one for one in left)
    if together > 2 / math.sqrt(BLOCKS) * spread:
        reason = "neighbouring blocks of documents go together: no interval"
        return Estimate(whole.value, count, None, None, reason)
    found = clustered_ratio(of_sums, of_sizes)
    return Estimate(found.value, count, found.standard_error, found.interval)


@dataclass(frozen=True)
class Gained:
    """What was gained on each of some documents, in the order of the stream.

    Attributes:
        rows: the documents.
        sums: nats gained on each; above 0 having read before helps.
        sizes: tokens that they are over.
    """

    rows: tuple[Row, ...]
    sums: tuple[float, ...]
    sizes: tuple[int, ...]

    @property
    def estimate(self) -> Estimate | None:
        """Nats per token over all of them; None where there is no document."""
        return over_blocks(self.sums, self.sizes) if self.rows else None


@dataclass(frozen=True)
class Retained:
    """The probe, read by the state.

    Attributes:
        fresh: nats per token as a fresh method reads it.
        after: documents, and nats per token as the method reads it after each of them.
    """

    fresh: float
    after: tuple[tuple[Row, float], ...]

    @property
    def gains(self) -> list[float]:
        """Fresh minus after, nats per token; below 0 the method has lost what it could."""
        return [self.fresh - value for _, value in self.after]


@dataclass(frozen=True)
class Drift:
    """A run that was never reset.

    Attributes:
        forward: on the first tokens of each document after the first, against a fresh method; None
            without its run, and where losses of single tokens were not stored.
        returned: on each text that was read before with others in between, against its first
            reading in the same stream.
        returned_fresh: the same against a fresh method; None without its run.
        retained: the probe; None without one, and where no fresh method read it.
        lacks: why `forward` or `returned_fresh` is None; None if neither is.
    """

    forward: Gained | None
    returned: Gained
    returned_fresh: Gained | None
    retained: Retained | None
    lacks: str | None


@lru_cache(maxsize=128)
def drift_of(run: Run) -> Drift | None:
    """What a run carries from document to document; None where it is reset at each.

    Raises:
        BenchError: a file of it, or of the run of fresh methods, is damaged.
    """
    if not never_reset(run):
        return None
    rows = tuple(row for row in run.rows if row.status == "done")
    again = _again(rows)
    returned = _gained([(row, first) for row, first in again])
    retained = _retained(run, rows)
    fresh = fresh_pair(run)
    if fresh is None:
        return Drift(None, returned, None, retained, NOT_FRESH)
    theirs = {row.key: row for row in fresh.rows if row.status == "done"}
    pairs = [(row, theirs[row.key]) for row in rows if row.key in theirs]
    if any((a.sha256, a.tokens) != (b.sha256, b.tokens) for a, b in pairs):
        raise BenchError(f"{fresh.path} read other documents than {run.path}.")
    repeated = {row.key for row, _ in again}
    returned_fresh = _gained([pair for pair in pairs if pair[0].key in repeated])
    try:
        later = [pair for pair in pairs if pair[0].index > rows[0].index]
        forward = _forward(run, fresh, later)
    except BenchError as error:
        return Drift(None, returned, returned_fresh, retained, f"no forward transfer: {error}")
    return Drift(forward, returned, returned_fresh, retained, None)


def _forward(run: Run, fresh: Run, pairs: Sequence[tuple[Row, Row]]) -> Gained:
    sums = [_first(fresh, other) - _first(run, mine) for mine, other in pairs]
    sizes = [min(mine.tokens, FIRST_TOKENS) for mine, _ in pairs]
    return Gained(tuple(mine for mine, _ in pairs), tuple(sums), tuple(sizes))


def _first(run: Run, row: Row) -> float:
    """The sum of the losses of a document's first tokens; of a short one its row has it."""
    if row.tokens <= FIRST_TOKENS:
        return row.nll or 0.0
    return math.fsum(run.nll(row)[:FIRST_TOKENS].tolist())


def _again(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Each document whose text was read before with another in between, and its first reading."""
    first: dict[str, Row] = {}
    found = []
    for place, row in enumerate(rows):
        seen = first.setdefault(row.sha256 or f"key {row.key}", row)
        if seen is not row and rows[place - 1].sha256 != row.sha256:
            found.append((row, seen))
    return found


def _gained(pairs: Sequence[tuple[Row, Row]]) -> Gained:
    """What each document gains on another reading of the same tokens."""
    same = [(row, other) for row, other in pairs if row.tokens == other.tokens]
    return Gained(
        tuple(row for row, _ in same),
        tuple((other.nll or 0.0) - (row.nll or 0.0) for row, other in same),
        tuple(row.tokens for row, _ in same),
    )


def _retained(run: Run, rows: Sequence[Row]) -> Retained | None:
    tokens, fresh = run.cost("probe_tokens"), run.cost("probe_fresh_nll")
    read = [(row, row.probe_nll) for row in rows if row.probe_nll is not None]
    if not tokens or fresh is None or not read:
        return None
    return Retained(fresh / tokens, tuple((row, nll / tokens) for row, nll in read))


POINTS = 20
"""Most points of a curve over the stream."""


@dataclass(frozen=True)
class Along:
    """One value of each document, over the stream.

    Attributes:
        numbers: the place of each document in the stream, counted from 1, rising.
        sums: nats of each.
        sizes: tokens that they are over.
    """

    numbers: tuple[int, ...]
    sums: tuple[float, ...]
    sizes: tuple[float, ...]

    def curve(self, documents: int, points: int = POINTS) -> list[Bucket]:
        """Nats per token in buckets of consecutive documents, without intervals.

        Args:
            documents: the length of the stream, so that curves of several runs have one scale.
            points: the most buckets; fewer where there are fewer documents.
        """
        most = min(points, documents)
        edges = [1 + round(point * documents / most) for point in range(most + 1)]
        buckets = []
        for low, high in pairwise(edges):
            inside = [at for at, number in enumerate(self.numbers) if low <= number < high]
            if inside:
                size = math.fsum(self.sizes[at] for at in inside)
                value = math.fsum(self.sums[at] for at in inside) / size
                estimate = Estimate(value, len(inside), None, None, NEVER_RESET)
                buckets.append(Bucket(low, high, round(size), estimate))
        return buckets


def losses_along(run: Run) -> Along:
    """The loss of each document that is done."""
    rows = [row for row in run.rows if row.status == "done"]
    return _along(rows, [row.nll or 0.0 for row in rows], [row.tokens for row in rows])


def forward_along(drift: Drift) -> Along | None:
    """What each document's first tokens gain; None where that is not known."""
    forward = drift.forward
    return None if forward is None else _along(forward.rows, forward.sums, forward.sizes)


def retention_along(drift: Drift) -> Along | None:
    """What the probe gains after each document; None without a probe."""
    kept = drift.retained
    if kept is None:
        return None
    return _along([row for row, _ in kept.after], kept.gains, [1.0] * len(kept.after))


def _along(rows: Sequence[Row], sums: Sequence[float], sizes: Sequence[float]) -> Along:
    return Along(tuple(row.index + 1 for row in rows), tuple(sums), tuple(sizes))
