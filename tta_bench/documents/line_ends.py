"""`lf:DATASET`: a dataset with line ends of one kind.

Texts made on Windows end lines in CR LF, those of old Macs in CR. A model that has hardly seen them
loses much at every line end, and whatever adapts learns that first: gains are then of the line ends
and not of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tta_bench.documents.document import Document
from tta_bench.documents.source import Source
from tta_bench.errors import DocumentError

PREFIX = "lf:"


def with_own_line_ends(spec: str) -> str | None:
    """The dataset whose line ends a spec makes LF; None for any other spec.

    Raises:
        DocumentError: it names no dataset.
    """
    if spec == PREFIX:
        raise DocumentError(f"{PREFIX} names no dataset; write {PREFIX}DATASET.")
    return spec.removeprefix(PREFIX) if spec.startswith(PREFIX) else None


@dataclass(frozen=True)
class LineEndSource:
    """The texts of a source, with LF in the place of CR LF and of CR alone."""

    source: Source

    def documents(self) -> Iterator[Document]:
        for document in self.source.documents():
            text = document.text.replace("\r\n", "\n").replace("\r", "\n")
            yield replace(document, text=text)

    def identity(self) -> Any:
        return [PREFIX, self.source.identity()]
