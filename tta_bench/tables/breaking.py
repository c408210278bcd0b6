"""Where headings, numbers and text break into lines on a narrow terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.cells import cell_len, chop_cells

from tta_bench.format import BREAK

# Behind a blank or a separator of a method's spec or a path, but within no number such as 1,024.
_WORDS = re.compile(rf"{BREAK}|(?<=\s)|(?<=[,:/])(?!\s|(?<=\d,)\d{{3}})")
_PIECES = re.compile(r"(?<=[=_.-])")


def packed(text: str, width: int) -> str:
    """The text broken at its BREAKs, into lines of at most `width` columns if that can be."""
    return _lines(text.split(BREAK), width)


def headline(text: str, width: int) -> str:
    """A heading broken at its BREAKs, or at blanks if it has none; each line of it by itself.

    A part that is longer, such as a method's spec, breaks behind its separators, too.
    """
    lines = []
    for line in text.split("\n"):
        parts = re.split(BREAK if BREAK in line else "(?<= )", line)
        lines.append(_lines((piece for part in parts for piece in _cut(part, width)), width))
    return "\n".join(lines)


def wrapped(text: str, width: int) -> str:
    """Text broken behind blanks and separators, into lines of at most `width` columns.

    A word that is longer breaks behind `=`, `_`, `.` or `-`, and only if that does not help between
    any two letters.
    """
    return _lines(_fine(_WORDS.split(text), width), width)


def longest_word(text: str) -> int:
    """Columns that the text needs if it is to break between words alone."""
    return max(cell_len(word.rstrip()) for word in _WORDS.split(text))


def _cut(part: str, width: int) -> Iterable[str]:
    if cell_len(part.rstrip()) <= width:
        return [part]
    return [piece for word in _WORDS.split(part) for piece in _PIECES.split(word)]


def _fine(words: Iterable[str], width: int) -> Iterable[str]:
    for word in words:
        if cell_len(word.rstrip()) <= width:
            yield word
            continue
        for piece in _PIECES.split(word):
            yield from [piece] if cell_len(piece) <= width else chop_cells(piece, max(1, width))


def _lines(parts: Iterable[str], width: int) -> str:
    lines = [""]
    for part in parts:
        if lines[-1] and cell_len(lines[-1]) + cell_len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)
