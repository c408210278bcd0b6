"""Words of a dataset as its authors counted them, which word perplexity is reported over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tta_bench.documents.tokens import TokenizedDataset

_ALIKE = 0.1
"""Share by which an author's count may differ from that of white space: punctuation, ends of lines.
"""


@dataclass(frozen=True)
class PublishedWords:
    """The number of words in a part of a dataset, as it was published.

    Attributes:
        documents: documents of that part.
        words: words in all of them.
        source: who counted them, for the manifest.
    """

    documents: int
    words: int
    source: str

    def __post_init__(self) -> None:
        if self.documents < 1 or self.words < 1:
            raise ValueError("documents and words must be at least 1.")


def published_words(
    counts: Iterable[PublishedWords], documents: TokenizedDataset
) -> PublishedWords | None:
    """The count that is of exactly these documents, read whole; None if no one published it.

    It has their number, and comes within a tenth of the words that white space parts; where two
    do, the nearer one is taken.

    Args:
        counts: what was published, of one or several parts.
        documents: the documents, of which nothing was left out.
    """
    counted = documents.total_words
    found = [
        count
        for count in counts
        if count.documents == len(documents) and abs(count.words - counted) <= _ALIKE * counted
    ]
    return min(found, key=lambda count: abs(count.words - counted), default=None)
