"""The table object: columns that know how to show a row of raw values, and five renderings."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tta_bench.format import BREAK, DASH, plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

STAMPS = (
    *("PARTIAL", "RANDOM WEIGHTS", "NOT VALID", "validity unknown", "not audited", "not judged"),
)
"""Notes that begin with one of these are warnings about the numbers."""

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
        left: whether cells are flush left, as text is, and not right, as numbers are.
        narrow: widest a cell may get on a narrow terminal, in characters, if it has BREAKs.
    """

    key: str
    title: str = ""
    unit: str = ""
    show: Callable[[Values], str] | None = None
    better: Literal["lower", "higher"] | None = None
    bold: bool = True
    left: bool = False
    narrow: int = 10

    def cell(self, row: Values) -> str:
        """Text of a cell, with its BREAKs."""
        if self.show is not None:
            parts = self.show(row).split(BREAK)
            return BREAK.join(map(plain, parts))
        value = row.get(self.key)
        return DASH if value is None else plain(str(value))


@dataclass(frozen=True)
class Table:
    """Columns, rows of raw values, and the notes that belong under them.

    A row takes part in the choice of the best value if its value of `ranked` is true.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Values]
    notes: Sequence[str] = ()

    @property
    def shown(self) -> list[Column]:
        """The columns that people see."""
        return [column for column in self.columns if column.title]

    def is_best(self, column: Column, row: Values) -> bool:
        """Whether the row holds the column's best value among at least two ranked rows."""
        if column.better is None or not column.bold or not row.get("ranked"):
            return False
        ranked = [other[column.key] for other in self.rows if other.get("ranked")]
        ranked = [value for value in ranked if value is not None]
        if len(set(ranked)) < 2:
            return False
        return row[column.key] == (min(ranked) if column.better == "lower" else max(ranked))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.to_rich(options.max_width)

    def to_rich(self, width: int | None = None) -> RenderableType:
        """The table for a terminal; cells break into lines where it is too narrow.

        Args:
            width: columns of the terminal; None for as many as are needed.
        """
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        lines, gap = self._fitted(width)
        grid = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap))
        for column, head in zip(self.shown, lines[0], strict=True):
            justify: Literal["left", "right"] = "left" if column.left else "right"
            grid.add_column(Text(head), justify=justify, overflow="fold")
        for row, cells in zip(self.rows, lines[1:], strict=True):
            styles = ["bold" if self.is_best(column, row) else "" for column in self.shown]
            grid.add_row(*map(Text, cells, styles))
        notes = [
            Text(plain(note), style="bold yellow" if note.startswith(STAMPS) else "dim")
            for note in self.notes
        ]
        return Group(Text(plain(self.title), style="bold"), Text(), grid, Text(), *notes)

    def _fitted(self, width: int | None) -> tuple[list[list[str]], int]:
        """Headings and rows broken into lines as far as the width asks for; padding beside cells.

        Headings and text give way before numbers do.
        """
        from rich.cells import cell_len

        heads = [f"{column.title}\n{column.unit}".rstrip() for column in self.shown]
        whole = [heads, *([column.cell(row) for column in self.shown] for row in self.rows)]
        lines: list[list[str]] = []
        for level in range(3):
            lines = [
                [
                    _packed(cell, column.narrow)
                    if level == 2 or (level == 1 and (number == 0 or column.left))
                    else _joined(cell)
                    for column, cell in zip(self.shown, cells, strict=True)
                ]
                for number, cells in enumerate(whole)
            ]
            widths = [
                max(cell_len(part) for cell in cells for part in cell.split("\n"))
                for cells in zip(*lines, strict=True)
            ]
            if width is None or sum(widths) + 3 * len(widths) <= width:
                return lines, 1
        return lines, 0

    def to_markdown(self) -> str:
        """A GitHub table with its title in bold and its notes as a list."""
        heads = [_markdown(_joined(_heading(column))) for column in self.shown]
        rules = [":---" if column.left else "---:" for column in self.shown]
        lines = [_pipes(heads), _pipes(rules)]
        for row in self.rows:
            cells = []
            for column in self.shown:
                cell = _markdown(_joined(column.cell(row)))
                cells.append(f"**{cell}**" if self.is_best(column, row) else cell)
            lines.append(_pipes(cells))
        notes = [f"- {_markdown(plain(note))}" for note in self.notes]
        blocks = [f"**{_markdown(plain(self.title))}**", "\n".join(lines), "\n".join(notes)]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def to_latex(self) -> str:
        """A floating table for the package booktabs, its notes in the caption."""
        spec = "".join("l" if column.left else "r" for column in self.shown)
        heads = [_latex(_joined(_heading(column))) for column in self.shown]
        lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", _ampersands(heads), r"\midrule"]
        for row in self.rows:
            cells = []
            for column in self.shown:
                cell = _latex(_joined(column.cell(row)))
                cells.append(rf"\textbf{{{cell}}}" if self.is_best(column, row) else cell)
            lines.append(_ampersands(cells))
        lines += [r"\bottomrule", r"\end{tabular}"]
        caption = ". ".join([self.title, *self.notes])
        whole = [
            r"\begin{table}",
            r"\centering",
            *lines,
            rf"\caption{{{_latex(plain(caption))}.}}",
            r"\end{table}",
        ]
        return "\n".join(whole) + "\n"

    def to_csv(self, header: bool = True) -> str:
        """Raw values, unknown ones empty; every column, also those that people do not see."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        if header:
            writer.writerow(column.key for column in self.columns)
        for row in self.rows:
            values = [row.get(column.key) for column in self.columns]
            writer.writerow(plain(value) if isinstance(value, str) else value for value in values)
        return stream.getvalue()

    def to_json(self) -> dict[str, Any]:
        """JSON-able: `title`, `columns`, `rows` (all raw values, nested ones too) and `notes`."""
        columns = [
            {"key": column.key, "title": _joined(column.title), "unit": column.unit}
            for column in self.columns
        ]
        rows = [dict(row) for row in self.rows]
        return {"title": self.title, "columns": columns, "rows": rows, "notes": list(self.notes)}


def _heading(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _joined(text: str) -> str:
    return text.replace(BREAK, "")


def _packed(text: str, width: int) -> str:
    """Breaks the text where it may, into lines of at most `width` if that can be."""
    lines = [""]
    for part in text.split(BREAK):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ampersands(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*`<])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "∞": r"$\infty$",
    "—": "---",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.])-(?=[\d$])", "$-$", escaped)
