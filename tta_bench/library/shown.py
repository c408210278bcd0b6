"""Tables as Python shows them: text in a terminal, HTML in a notebook."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tta_bench.report.markup import escaped
from tta_bench.tables.column import joined
from tta_bench.tables.table import STAMPS, Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class Shown(ABC):
    """Something that shows itself as tables: printed, by rich, and as a notebook's output."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """The tables, in their order."""

    def __str__(self) -> str:
        from rich.console import Console

        width = shutil.get_terminal_size(fallback=(160, 24)).columns
        # Plain wherever it stands: kernels of notebooks ask for colours by the environment.
        console = Console(
            width=width,
            highlight=False,
            color_system=None,
            force_terminal=False,
            force_jupyter=False,
        )
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip("\n")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for place, table in enumerate(self.tables()):
            yield from ([""] if place else [])
            yield table

    def _repr_html_(self) -> str:
        return "".join(map(table_html, self.tables()))


class Tables(Shown):
    """Tables that show themselves as soon as a prompt or a cell ends in them."""

    def __init__(self, tables: Sequence[Table]):
        self._tables = list(tables)

    def tables(self) -> list[Table]:
        return self._tables

    def __repr__(self) -> str:
        return str(self)


def table_html(table: Table) -> str:
    """A table as plain HTML, with its title above and its notes below."""
    columns = table.shown
    heads = "".join(
        f'<th style="text-align:{_side(column.left)}">{escaped(joined(column.title))}'
        + (f"<br><small>{escaped(joined(column.unit))}</small>" if column.unit else "")
        + "</th>"
        for column in columns
    )
    rows = []
    for row in table.rows:
        cells = []
        for column in columns:
            text = escaped(joined(column.cell(row)))
            text = f"<strong>{text}</strong>" if table.is_best(column, row) else text
            cells.append(f'<td style="text-align:{_side(column.left)}">{text}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(
        f"<li>{_strong(escaped(note), note.startswith(STAMPS))}</li>" for note in table.notes
    )
    return (
        f"<p><strong>{escaped(table.title)}</strong></p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        + (f"<ul><small>{notes}</small></ul>" if notes else "")
    )


def _side(left: bool) -> str:
    return "left" if left else "right"


def _strong(text: str, wanted: bool) -> str:
    return f"<strong>{text}</strong>" if wanted else text
