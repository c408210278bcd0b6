"""The documents that a run has done, as columns: what statistics over many documents read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tta_bench.store.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Done:
    """Documents with status `done`, one entry of each column per document.

    Attributes:
        keys: keys of the documents, each once.
        hashes: SHA-256 of their texts; empty where it is not known.
        tokens: predictions scored.
        bytes: bytes of the text that those cover; 0 where they are not known.
        words: words of that text; likewise.
        losses: summed negative log-likelihoods, nats.
        top1: predictions whose target was the most probable token; None where that was not kept.
    """

    keys: list[str]
    hashes: list[str]
    tokens: list[int]
    bytes: list[int]
    words: list[int]
    losses: list[float]
    top1: list[int | None]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Done:
        """Those of the rows that are done."""
        done = [row for row in rows if row.status == "done" and row.nll is not None]
        return cls(
            [row.key for row in done],
            [row.sha256 for row in done],
            [row.tokens for row in done],
            [row.bytes for row in done],
            [row.words for row in done],
            [row.nll for row in done if row.nll is not None],
            [row.top1 for row in done],
        )

    def take(self, places: Sequence[int]) -> Done:
        """The documents at these places, in this order."""
        return Done(
            [self.keys[place] for place in places],
            [self.hashes[place] for place in places],
            [self.tokens[place] for place in places],
            [self.bytes[place] for place in places],
            [self.words[place] for place in places],
            [self.losses[place] for place in places],
            [self.top1[place] for place in places],
        )

    @cached_property
    def key_set(self) -> frozenset[str]:
        """The keys, for questions of which documents are there."""
        return frozenset(self.keys)

    @cached_property
    def distinct(self) -> int:
        """How many texts there are; one whose hash is not known is a text of its own."""
        known = [text for text in self.hashes if text]
        return len(set(known)) + len(self.hashes) - len(known)

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        """[documents] `losses` as an array."""
        return _array(self.losses)

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """[documents] `tokens` as an array of floats."""
        return _array(self.tokens)


def _array(values: Sequence[float]) -> NDArray[np.float64]:
    import numpy as np

    return np.array(values, dtype=np.float64)
