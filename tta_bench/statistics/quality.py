"""How well documents were predicted: pure functions of stored rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        words: words of that text, as lm-evaluation-harness splits them; likewise.
        nll: summed negative log-likelihood, nats.
        macro_nll: mean over documents of nats per token.
        macro_perplexity: mean over documents of the document's perplexity.
    """

    documents: int
    tokens: int
    bytes: int
    words: int
    nll: float
    macro_nll: float
    macro_perplexity: float

    @property
    def nll_per_token(self) -> float:
        """sum NLL / sum tokens, nats."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """Corpus perplexity per token, exp(sum NLL / sum tokens)."""
        return exp(self.nll_per_token)

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


def quality(rows: Iterable[Row]) -> Quality | None:
    """Totals and macro means over the rows that are done; None if there is none."""
    done = [(row, row.nll) for row in rows if row.nll is not None and row.status == "done"]
    if not done:
        return None
    means = [nll / row.tokens for row, nll in done]
    return Quality(
        documents=len(done),
        tokens=sum(row.tokens for row, _ in done),
        bytes=_sum_if_known(row.bytes for row, _ in done),
        words=_sum_if_known(row.words for row, _ in done),
        nll=math.fsum(nll for _, nll in done),
        macro_nll=math.fsum(means) / len(done),
        macro_perplexity=math.fsum(map(exp, means)) / len(done),
    )


def _sum_if_known(counts: Iterable[int]) -> int:
    """0 if any is 0: no text has 0 bytes or words, so a protocol left out an unknown part of it."""
    known = list(counts)
    return sum(known) if all(known) else 0
