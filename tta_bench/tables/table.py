"""The table object: columns, rows of raw values, notes, and its renderings."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tta_bench.format import BREAK, plain
from tta_bench.tables.column import Column, Values, in_ascii, joined
from tta_bench.tables.later import all_made

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

STAMPS = (
    *("PARTIAL", "RANDOM WEIGHTS", "NOT VALID", "validity unknown", "not audited", "not judged"),
)
"""Notes that begin with one of these are warnings about the numbers."""
ANSWERS = ("best at", "frontier in")
"""Notes that begin with one of these are what was asked for."""


@dataclass(frozen=True)
class Table:
    """Columns, rows of raw values, and the notes that belong under them.

    A row takes part in the choice of the best value if its value of `ranked` is true.

    Attributes:
        title: what the rows have in common.
        columns: those that people see, and behind them what CSV and JSON have beside.
        rows: raw values by the keys of columns; there may be more, which columns show from.
        notes: what belongs under the table.
        chosen: whether somebody chose the columns: then JSON, too, has the values of these alone.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Values]
    notes: Sequence[str] = ()
    chosen: bool = False

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
        from rich.text import Text

        from tta_bench.tables.terminal import grid

        columns = map(in_ascii, self.shown) if options.ascii_only else self.shown
        whole, left_out = grid(list(columns), self.rows, self.is_best, options.max_width)
        yield Text(plain(self.title), style="bold")
        yield Text()
        yield whole
        notes = [*left_out, *self.notes]
        yield from [Text()] if notes else []
        for note in notes:
            yield Text(plain(note), style=_style(note))

    def to_markdown(self) -> str:
        """A GitHub table with its title in bold and its notes as a list."""
        heads = [_markdown(joined(_heading(column))) for column in self.shown]
        rules = [":---" if column.left else "---:" for column in self.shown]
        lines = [_pipes(heads), _pipes(rules)]
        for row in self.rows:
            cells = []
            for column in self.shown:
                cell = _markdown(joined(column.cell(row)))
                cells.append(f"**{cell}**" if self.is_best(column, row) else cell)
            lines.append(_pipes(cells))
        notes = [f"- {_markdown(plain(note))}" for note in self.notes]
        blocks = [f"**{_markdown(plain(self.title))}**", "\n".join(lines), "\n".join(notes)]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def to_latex(self, caption: str | None = None) -> str:
        """A floating table for the package booktabs.

        Args:
            caption: replaces title and notes, which then stand above the table as comments; None
                for a caption of both. Warnings about the numbers stay in any caption.
        """
        spec = "".join("l" if column.left else "r" for column in self.shown)
        heads = [_latex(joined(_heading(column))) for column in self.shown]
        lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", _ampersands(heads), r"\midrule"]
        for row in self.rows:
            cells = []
            for column in self.shown:
                cell = _latex(joined(column.cell(row)))
                cells.append(rf"\textbf{{{cell}}}" if self.is_best(column, row) else cell)
            lines.append(_ampersands(cells))
        lines += [r"\bottomrule", r"\end{tabular}"]
        stamps = [note for note in self.notes if note.startswith(STAMPS)]
        sentences = [self.title, *self.notes] if caption is None else [caption, *stamps]
        comments = [] if caption is None else [self.title, *self.notes]
        whole = [
            *(f"% {plain(text)}" for text in comments),
            r"\begin{table}",
            r"\centering",
            *lines,
            rf"\caption{{{_latex(plain('. '.join(s.removesuffix('.') for s in sentences)))}.}}",
            r"\end{table}",
        ]
        return "\n".join(whole) + "\n"

    def to_html(self, caption: str | None = None) -> str:
        """A table element that stands by itself, its notes in the foot.

        Args:
            caption: replaces the title.
        """
        from tta_bench.tables.html import html_table

        title = self.title if caption is None else caption
        return html_table(self.shown, self.rows, self.is_best, title, self.notes)

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

    def values(self, row: Values) -> dict[str, Any]:
        """The raw values of a row: all of them, or those of the chosen columns."""
        if self.chosen:
            return {c.key: row.get(c.key) for c in self.columns}
        return all_made(dict(row))

    def to_json(self) -> dict[str, Any]:
        """JSON-able: `title`, `columns`, `rows` (all raw values, nested ones too) and `notes`."""
        columns = [
            {"key": column.key, "title": joined(column.title), "unit": joined(column.unit)}
            for column in self.columns
        ]
        rows = [self.values(row) for row in self.rows]
        return {"title": self.title, "columns": columns, "rows": rows, "notes": list(self.notes)}


def _style(note: str) -> str:
    if note.startswith(STAMPS):
        return "bold yellow"
    return "bold" if note.startswith(ANSWERS) else "dim"


def _heading(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


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
    BREAK: "{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    apart = text.replace("--", f"-{BREAK}-")  # LaTeX sets two hyphens, as of a flag, as a dash
    escaped = "".join(_LATEX.get(character, character) for character in apart)
    return re.sub(r"(?<![\w.])-(?=[\d$])", "$-$", escaped)
