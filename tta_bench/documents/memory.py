"""Documents that Python holds already: known by a name while they are used.

Documents in memory are named `memory:HASH` after their keys and texts, in order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tta_bench.documents.document import Document
from tta_bench.documents.rows import Row, encodable, row_documents
from tta_bench.errors import DocumentError

MEMORY = "memory:"
"""How the names of models and documents in memory begin."""

_NAME = "document"
"""Start of the keys of texts without a key: `document:1`."""


@dataclass(frozen=True, eq=False)
class MemorySource:
    """Strings, a mapping from keys to texts, or a `datasets.Dataset`."""

    held: Any
    text_column: str | None = None

    def documents(self) -> Iterator[Document]:
        if isinstance(self.held, Mapping):
            for key, text in self.held.items():
                yield Document(str(key), _checked(text, f"the document {key!r}"))
        elif isinstance(self.held, Sequence):
            for number, text in enumerate(self.held, 1):
                yield Document(f"{_NAME}:{number}", _checked(text, f"document {number}"))
        else:
            yield from row_documents(self._rows(), "the dataset", _NAME, self.text_column)

    def identity(self) -> list[list[str]]:
        """Keys and hashes of the texts: what is in memory may change."""
        return [[document.key, document.sha256] for document in self.documents()]

    def _rows(self) -> Iterator[Row]:
        for number, row in enumerate(self.held, 1):
            yield f"Row {number}", row


_HELD: dict[str, MemorySource] = {}


@contextmanager
def held_documents(documents: Any, text_column: str | None = None) -> Iterator[str]:
    """Makes documents in memory known inside the block.

    Args:
        documents: a list of texts, a mapping from keys to texts, or a `datasets.Dataset`.
        text_column: the column of a dataset that contains the text; None to choose it.

    Yields:
        The name that `open_source` takes, `memory:HASH`.

    Raises:
        DocumentError: they are none of these, or empty.
    """
    _refuse(documents)
    source = MemorySource(documents, text_column)
    identity = source.identity()
    if not identity:
        raise DocumentError("the documents are empty; hand in at least one text.")
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    name = f"{MEMORY}{digest[:12]}"
    before = _HELD.get(name)
    _HELD[name] = source
    try:
        yield name
    finally:
        if before is None:
            del _HELD[name]
        else:
            _HELD[name] = before


def memory_source(name: str) -> MemorySource:
    """The source of documents in memory.

    Raises:
        DocumentError: no documents of that name are in memory.
    """
    if name not in _HELD:
        raise DocumentError(
            f"{name} were documents in the memory of a Python session, so that their runs cannot "
            "be repeated from their manifests alone; hand them to tta_bench.evaluate again."
        )
    return _HELD[name]


def _refuse(documents: Any) -> None:
    """Raises DocumentError for what holds no texts in one of the known forms."""
    if isinstance(documents, Mapping):
        if documents and all(hasattr(part, "column_names") for part in documents.values()):
            first = next(iter(documents))
            raise DocumentError(
                f"the documents are a dataset of several splits ({', '.join(documents)}); hand in "
                f"one of them, such as documents[{first!r}]."
            )
        return
    if isinstance(documents, Sequence) and not isinstance(documents, (str, bytes)):
        return
    if not (hasattr(documents, "column_names") and hasattr(documents, "__len__")):
        raise DocumentError(
            "documents must be a spec, a list of texts, a mapping from keys to texts or a "
            f"datasets.Dataset, not {type(documents).__name__}."
        )


def _checked(text: Any, where: str) -> str:
    """The text, if it is one."""
    if not isinstance(text, str):
        raise DocumentError(f"{where} is {type(text).__name__}, not text.")
    return encodable(text, where)
