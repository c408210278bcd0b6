"""A document is one text with a stable key: the unit of statistics and of resuming a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tta_bench.documents.encode import NOT_ODD, Oddities

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def count_bytes(text: str) -> int:
    """Length of the text in UTF-8 bytes."""
    return len(text.encode())


def count_words(text: str) -> int:
    """Words as lm-evaluation-harness counts them: white space at either end adds an empty word."""
    return len(re.split(r"\s+", text))


@dataclass(frozen=True)
class Document:
    """A text and the key that identifies it in rows, in resumed runs and in paired statistics."""

    key: str  # a relative path, the id of a row, or the name of a topic
    text: str

    @property
    def n_bytes(self) -> int:
        return count_bytes(self.text)

    @property
    def n_words(self) -> int:
        return count_words(self.text)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the UTF-8 bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Asked:
    """What a document asks for that was said, or might have been said, earlier in it.

    Attributes:
        planted: whether it was said; in a control it was not.
        answers: for each answer the place of its first token, the one behind its last, and how
            many tokens before the first it was said.
    """

    planted: bool
    answers: tuple[tuple[int, int, int], ...]

    def behind(self, left_out: int) -> Asked:
        """The same with places counted from behind the first tokens."""
        moved = ((start - left_out, stop - left_out, lag) for start, stop, lag in self.answers)
        return Asked(self.planted, tuple(moved))


@dataclass(frozen=True)
class TokenizedDocument:
    """A document as the engine reads it: token ids, and the sizes of the text that they cover.

    Documents of fewer than two tokens are kept; the engine writes a `skipped` row for them.
    """

    key: str
    token_ids: NDArray[np.int32]  # [n], read-only
    n_bytes: int  # bytes of the text that token_ids cover, which may be truncated
    n_words: int  # words of that text
    sha256: str  # hash of the whole text, truncated or not: it identifies the document
    oddities: Oddities = NOT_ODD  # known while the cache is written
    asked: Asked | None = None  # of a document with planted sentences


def unique_keys(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents with unique keys: repetitions of a key become `key#2`, `key#3`, ...

    A key depends only on the documents before it, so a larger `limit` changes no key. Keys are
    remembered as 64-bit hashes, which takes about 100 bytes per document.
    """
    seen: set[int] = set()
    repeats: dict[int, int] = {}
    for document in documents:
        # File names may contain undecodable bytes (lone surrogates), which cannot be stored.
        key = candidate = document.key.encode(errors="replace").decode()
        first = _hash(key)
        number = repeats.get(first, 1)
        while _hash(candidate) in seen:
            number += 1
            candidate = f"{key}#{number}"
        if number > 1:
            repeats[first] = number
        seen.add(_hash(candidate))
        yield document if candidate == document.key else replace(document, key=candidate)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
