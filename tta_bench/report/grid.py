"""The grid object: rows by columns with one number in each cell, drawn as its colour."""

from __future__ import annotations

from dataclasses import dataclass

from tta_bench.format import DASH, fixed

STRONGEST = 0.75
"""How opaque the colour of a cell is at most: its number must stay readable."""


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        value: between -1 and 1; what lies beyond has the colour of the end.
        low: lower end of its interval, None without one.
        high: upper end of it.
        ranked: whether the run takes part in a ranking; else the cell has no colour.
    """

    value: float
    low: float | None
    high: float | None
    ranked: bool

    @property
    def text(self) -> str:
        """`0.87`, in brackets if it is not ranked."""
        return fixed(self.value, 2) if self.ranked else f"({fixed(self.value, 2)})"

    @property
    def hover(self) -> str:
        """The number with its interval."""
        if self.low is None or self.high is None:
            return f"{fixed(self.value, 3)}, no interval"
        return (
            f"{fixed(self.value, 3)}, 95 % interval {fixed(self.low, 3)} to {fixed(self.high, 3)}"
        )

    @property
    def strength(self) -> float:
        """How opaque the colour is, 0 to `STRONGEST`; the sign of the value says which colour."""
        return STRONGEST * min(1.0, abs(self.value)) if self.ranked else 0.0


@dataclass(frozen=True)
class Grid:
    """A picture of rows by columns.

    Attributes:
        name: plain text, unique in a report: the stem of the PNG's name.
        title: heading of the picture.
        caption: what a reader must know to read it.
        columns: headings of the columns.
        rows: the methods.
        cells: [rows][columns]; None where there is no number.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]


def text_of(cell: Cell | None) -> str:
    """The number of a cell, or a dash."""
    return DASH if cell is None else cell.text
