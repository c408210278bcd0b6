"""What every source of documents offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from tta_bench.documents.document import Document


class Source(Protocol):
    """A place that documents come from."""

    def documents(self) -> Iterator[Document]:
        """The documents, one at a time, in a fixed order."""

    def identity(self) -> Any:
        """What the documents depend on, as JSON: hashes of contents where possible, else names."""
