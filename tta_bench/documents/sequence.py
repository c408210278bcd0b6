"""`sequence:A|B|A`: datasets one after another, for streams that drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tta_bench.documents.document import Document
from tta_bench.documents.source import Source
from tta_bench.errors import DocumentError

SEQUENCE = "sequence:"


def sequence_spec(specs: Sequence[str]) -> str:
    """The spec of these datasets one after another."""
    return SEQUENCE + "|".join(specs)


def datasets_in(spec: str) -> list[str]:
    """The datasets of a sequence in their order; none where the spec is of a single one.

    Raises:
        DocumentError: the sequence names fewer than two.
    """
    if not spec.startswith(SEQUENCE):
        return []
    named = [part.strip() for part in spec.removeprefix(SEQUENCE).split("|")]
    if len(named) < 2 or not all(named):
        raise DocumentError(f"{spec} names no two datasets; write {SEQUENCE}A|B|A.")
    return named


@dataclass(frozen=True)
class Turn:
    """One dataset of a sequence; keys of documents begin with its place, counted from 1."""

    spec: str
    place: int
    source: Source

    def documents(self) -> Iterator[Document]:
        for document in self.source.documents():
            yield Document(f"{self.place}/{document.key}", document.text)

    def identity(self) -> Any:
        return self.source.identity()


@dataclass(frozen=True)
class SequenceSource:
    """Datasets one after another; one that is named twice is read twice."""

    turns: tuple[Turn, ...]

    def documents(self) -> Iterator[Document]:
        for turn in self.turns:
            yield from turn.documents()

    def identity(self) -> Any:
        return ["sequence", [turn.identity() for turn in self.turns]]


def turns_of(spec: str, source: Source) -> list[tuple[str, Source]]:
    """What limits on documents count in: each dataset of a sequence, else the dataset itself."""
    if isinstance(source, SequenceSource):
        return [(turn.spec, turn) for turn in source.turns]
    return [(spec, source)]
