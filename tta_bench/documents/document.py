"""The document: one text with a stable key, the unit of statistics and of resuming."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def count_bytes(text: str) -> int:
    """Length in UTF-8 bytes."""
    return len(text.encode())


def count_words(text: str) -> int:
    """Words as lm-evaluation-harness counts them: white space at an end adds an empty one."""
    return len(re.split(r"\s+", text))


@dataclass(frozen=True)
class Document:
    """A text and the key that rows, resuming and paired statistics know it by."""

    key: str  # relative path, row id or topic name
    text: str

    @property
    def n_bytes(self) -> int:
        return count_bytes(self.text)

    @property
    def n_words(self) -> int:
        return count_words(self.text)

    @property
    def sha256(self) -> str:
        """Hex digest of the UTF-8 bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class TokenizedDocument:
    """What the engine reads: token ids, and the sizes of the text that exactly these tokens cover.

    A document of fewer than two tokens is kept: the engine writes a ``skipped`` row for it.
    """

    key: str
    token_ids: NDArray[np.int32]  # [n], read-only
    n_bytes: int  # of the text covered by token_ids; less than the source's if it was cut
    n_words: int  # likewise
    sha256: str  # of the whole source text, cut or not: the identity of the document


def unique_keys(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, the second and later holders of a key renamed ``key#2``, ``key#3``, ...

    A key depends only on the documents before it, so that a larger ``limit`` renames nothing. Seen
    keys are remembered as 64-bit hashes: about 100 bytes a document.
    """
    seen: set[int] = set()
    repeats: dict[int, int] = {}
    for document in documents:
        # Names of files may hold undecodable bytes (lone surrogates), which no store can write.
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
