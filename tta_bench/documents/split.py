"""`share:0.2:DATASET` and `rest:0.2:DATASET`: a dataset in two parts, by a hash of each text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tta_bench.documents.document import Document
from tta_bench.documents.line_ends import with_own_line_ends
from tta_bench.documents.planted import parse_planted
from tta_bench.documents.source import Source
from tta_bench.errors import DocumentError

SHARE, REST = "share", "rest"
_FORM = re.compile(rf"({SHARE}|{REST}):([^:]*):(.*)", re.DOTALL)


def part_spec(part: str, share: float, spec: str) -> str:
    """The spec of one part, `share` or `rest`, of a dataset."""
    return f"{part}:{share:g}:{spec}"


def undivided(spec: str) -> str:
    """The dataset that a spec may be a part of, plant sentences in, or change line ends of."""
    as_written = with_own_line_ends(spec)
    if as_written is not None:
        return undivided(as_written)
    planted = parse_planted(spec)
    if planted is not None:
        return undivided(planted[1])
    found = _FORM.fullmatch(spec)
    return undivided(found[3]) if found else spec


def parse_part(spec: str) -> tuple[str, float, str] | None:
    """`share` or `rest`, the share, and the whole dataset; None if the spec names no part.

    Raises:
        DocumentError: the share is no number between 0 and 1.
    """
    found = _FORM.fullmatch(spec)
    if found is None:
        return None
    part, text, whole = found.groups()
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise DocumentError(
            f"the share of {spec} must be a number between 0 and 1, not '{text}'; write "
            f"{part}:0.2:DATASET."
        )
    return part, share, whole


def in_share(document: Document, share: float) -> bool:
    """Whether a document is in the share: equal texts are on one side, whatever stands beside."""
    return int(document.sha256[:16], 16) < share * 2**64


@dataclass(frozen=True)
class PartSource:
    """One part of a dataset."""

    spec: str
    source: Source
    part: str
    share: float

    def documents(self) -> Iterator[Document]:
        seen, some = 0, False
        for document in self.source.documents():
            seen += 1
            if in_share(document, self.share) == (self.part == SHARE):
                some = True
                yield document
        if not some:
            raise DocumentError(
                f"{self.spec} is empty: none of {seen:,} documents falls into it; choose another "
                "share, or name other documents."
            )

    def identity(self) -> Any:
        return [self.part, self.share, self.source.identity()]
