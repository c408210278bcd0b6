"""A column of a table: what it is called, and how it shows a row of raw values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tta_bench.format import ASCII, BREAK, DASH, plain

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: name in CSV and JSON; the unit is part of it.
        title: heading for people; empty for a column that only CSV and JSON have.
        unit: second line of the heading.
        show: text of a row's cell; the raw value by default.
        better: which direction is better, so which value sorting by the column puts first; without
            one the lowest.
        bold: whether the best ranked value is set in bold.
        left: whether the column holds text, which is flush left and breaks at blanks and
            separators, and not numbers, which are flush right and break at a BREAK alone.
        narrow: widest a heading or a number may get on a narrow terminal, in characters, if it can
            break.
        keep: whether a narrow terminal leaves out every other column before this one.
        style: style of a row's cell on a terminal, such as `bold red`.
    """

    key: str
    title: str = ""
    unit: str = ""
    show: Callable[[Values], str] | None = None
    better: Literal["lower", "higher"] | None = None
    bold: bool = True
    left: bool = False
    narrow: int = 10
    keep: bool = False
    style: Callable[[Values], str] | None = None

    def cell(self, row: Values) -> str:
        """Text of a cell, with its BREAKs."""
        if self.show is not None:
            parts = self.show(row).split(BREAK)
            return BREAK.join(map(plain, parts))
        value = row.get(self.key)
        return DASH if value is None else plain(str(value))


def joined(text: str) -> str:
    """The text on one line."""
    return text.replace(BREAK, "")


def in_ascii(column: Column) -> Column:
    """The column for a terminal that may lack other characters, replaced before it is laid out."""

    def replaced(text: str) -> str:
        return BREAK.join(part.translate(ASCII) for part in text.split(BREAK))

    return replace(
        column,
        title=replaced(column.title),
        unit=replaced(column.unit),
        show=lambda row: replaced(column.cell(row)),
    )
