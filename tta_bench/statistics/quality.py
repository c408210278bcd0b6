"""How well documents were predicted: pure functions of stored rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.store import Done

if TYPE_CHECKING:
    from tta_bench.store import Row


def exp(value: float) -> float:
    """e to the `value`; infinite where a float cannot hold it."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Quality:
    """How well the documents that ended were predicted.

    Attributes:
        documents: documents with status `done`; the others count nowhere.
        tokens: predictions scored.
        bytes: UTF-8 bytes of the text that those tokens cover; 0 if a document's are not known.
        words: words of that text, as they were published, else as lm-evaluation-harness splits
            them; likewise.
        nll: summed negative log-likelihood, nats.
        macro_nll: mean over documents of nats per token.
        macro_perplexity: mean over documents of the document's perplexity.
        top1: predictions whose target was the most probable token; None if that is not known of
            every document.
    """

    documents: int
    tokens: int
    bytes: int
    words: int
    nll: float
    macro_nll: float
    macro_perplexity: float
    top1: int | None

    @property
    def nll_per_token(self) -> float:
        """sum NLL / sum tokens, nats."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """Corpus perplexity per token, exp(sum NLL / sum tokens)."""
        return exp(self.nll_per_token)

    @property
    def accuracy(self) -> float | None:
        """Share of predictions whose target was the most probable token."""
        return None if self.top1 is None else self.top1 / self.tokens

    @property
    def bits_per_byte(self) -> float | None:
        """sum NLL / (ln 2 x bytes); None if the bytes are not known."""
        return self.nll / (math.log(2) * self.bytes) if self.bytes else None

    @property
    def byte_perplexity(self) -> float | None:
        """exp(sum NLL / bytes)."""
        return exp(self.nll / self.bytes) if self.bytes else None

    @property
    def word_perplexity(self) -> float | None:
        """exp(sum NLL / words)."""
        return exp(self.nll / self.words) if self.words else None


def quality(rows: Iterable[Row] | Done, words: int | None = None) -> Quality | None:
    """Totals and macro means over the rows that are done; None if there is none.

    Args:
        rows: the rows of a run, or `Run.done`.
        words: the number of words in exactly those that are done, where it was published.
    """
    done = rows if isinstance(rows, Done) else Done.of(rows)
    count = len(done.keys)
    if not count:
        return None
    means = (done.sums / done.sizes).tolist()
    return Quality(
        documents=count,
        tokens=sum(done.tokens),
        bytes=_sum_if_known(done.bytes),
        words=words or _sum_if_known(done.words),
        nll=math.fsum(done.losses),
        macro_nll=math.fsum(means) / count,
        macro_perplexity=_sum(map(exp, means)) / count,
        top1=None if None in done.top1 else sum(n for n in done.top1 if n is not None),
    )


def _sum(values: Iterable[float]) -> float:
    """The exact sum; infinite where a float cannot hold it, though it held each value."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


def _sum_if_known(counts: Sequence[int]) -> int:
    """0 if any is 0: no text has 0 bytes or words, so a protocol left out an unknown part of it."""
    return sum(counts) if all(counts) else 0
