"""A table on a terminal: which columns fit its width, and where their cells break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from tta_bench.format import plain
from tta_bench.tables.breaking import headline, longest_word, packed, wrapped
from tta_bench.tables.column import Column, Values, joined

ROOM = 24
"""Columns that text is given before numbers break into lines."""


@dataclass(frozen=True)
class _Tightness:
    """How far a table gives way to the width.

    Attributes:
        heads: whether headings break into lines.
        numbers: whether numbers do, where they have a BREAK.
        text: columns that text has at least, if it is that long; its longest word has them anyway.
        gap: blanks on either side of what parts two columns.
    """

    heads: bool
    numbers: bool
    text: int | None
    gap: int


_TIGHTER = (
    _Tightness(heads=False, numbers=False, text=None, gap=1),
    _Tightness(heads=True, numbers=False, text=ROOM, gap=1),
    _Tightness(heads=True, numbers=True, text=ROOM, gap=1),
    _Tightness(heads=True, numbers=True, text=ROOM, gap=0),
    _Tightness(heads=True, numbers=True, text=0, gap=0),
)


@dataclass(frozen=True)
class _Layout:
    """Headings and rows of the columns that are shown, broken into lines."""

    columns: Sequence[Column]
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    gap: int

    @property
    def width(self) -> int:
        """Columns of the terminal that it takes."""
        lines = zip(self.heads, *self.rows, strict=True)
        return sum(map(_widest, lines)) + _between(len(self.columns), self.gap)


def grid(
    columns: Sequence[Column],
    rows: Sequence[Values],
    is_best: Callable[[Column, Values], bool],
    width: int,
) -> tuple[RichTable, list[str]]:
    """Columns and rows for a terminal, and a note that names the columns that it has no room for.

    Where they are too wide, headings break into lines, then text, then numbers; then columns are
    left out, the last ones first.

    Args:
        columns: all columns that people may see.
        rows: raw values.
        is_best: whether a row holds the best value of a column.
        width: columns of the terminal.
    """
    layout = _fitted(columns, rows, width)
    whole = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, layout.gap))
    for column, head in zip(layout.columns, layout.heads, strict=True):
        justify: Literal["left", "right"] = "left" if column.left else "right"
        whole.add_column(Text(head), justify=justify, overflow="fold")
    for row, cells in zip(rows, layout.rows, strict=True):
        styles = [_style(column, row, is_best(column, row)) for column in layout.columns]
        whole.add_row(*map(Text, cells, styles))
    names = ", ".join(_name(column) for column in columns if column not in layout.columns)
    note = f"left out at {width} columns: {names}; a wider terminal or JSON has them"
    return whole, [note] if names else []


def _style(column: Column, row: Values, best: bool) -> str:
    style = column.style(row) if column.style else ""
    return f"bold {style}".strip() if best else style


def _name(column: Column) -> str:
    return plain(joined(f"{column.title} {column.unit}".rstrip()))


def _fitted(columns: Sequence[Column], rows: Sequence[Values], width: int) -> _Layout:
    while True:
        for tightness in _TIGHTER:
            layout = _layout(columns, rows, tightness, width)
            if layout.width <= width:
                return layout
        spare = [column for column in columns[1:] if not column.keep] or columns[1:]
        if len(columns) <= 2:  # what is it of, and one figure; Rich folds what is still too long
            return layout
        columns = [column for column in columns if column is not spare[-1]]


def _layout(
    columns: Sequence[Column], rows: Sequence[Values], tightness: _Tightness, width: int
) -> _Layout:
    titles = [f"{column.title}\n{column.unit}".rstrip() for column in columns]
    heads = [
        headline(title, column.narrow) if tightness.heads else joined(title)
        for column, title in zip(columns, titles, strict=True)
    ]
    cells = [[column.cell(row) for row in rows] for column in columns]
    for place, column in enumerate(columns):
        if not column.left:
            broken = tightness.numbers
            cells[place] = [packed(c, column.narrow) if broken else joined(c) for c in cells[place]]
        elif tightness.text is None:
            cells[place] = list(map(joined, cells[place]))
    if tightness.text is not None:
        _break_text(columns, heads, cells, tightness, width)
    return _Layout(columns, heads, list(zip(*cells, strict=True)), tightness.gap)


def _break_text(
    columns: Sequence[Column],
    heads: Sequence[str],
    cells: list[list[str]],
    tightness: _Tightness,
    width: int,
) -> None:
    """Breaks the cells of text where they must, for what the numbers leave of the width."""
    taken = _between(len(columns), tightness.gap)
    least: dict[int, int] = {}
    wanted: dict[int, int] = {}
    for place, column in enumerate(columns):
        if not column.left:
            taken += _widest([heads[place], *cells[place]])
            continue
        head = _widest([heads[place]])
        wanted[place] = max([head, *(cell_len(joined(cell)) for cell in cells[place])])
        words = max([head, *(min(longest_word(cell), ROOM) for cell in cells[place])])
        least[place] = max(words, min(wanted[place], tightness.text or 0))
    room = max(0, width - taken - sum(least.values()))
    # Who wants little gets it, so that the rest goes to those who need it.
    order = sorted(wanted, key=lambda place: wanted[place] - least[place])
    for turn, place in enumerate(order):
        more = min(wanted[place] - least[place], room // (len(order) - turn))
        room -= more
        cells[place] = [wrapped(cell, least[place] + more) for cell in cells[place]]


def _widest(texts: Sequence[str]) -> int:
    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _between(columns: int, gap: int) -> int:
    return (2 * gap + 1) * (columns - 1)
