"""Tables on the terminal, and as the text of a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from tta_bench.tables import Table

FILE_WIDTH = 160
"""Columns of a rich table that is written to a file."""


def print_tables(kinds: Sequence[Sequence[Table]]) -> None:
    """Prints tables as wide as the terminal."""
    from rich.console import Console

    _print(Console(highlight=False), kinds)


def tables_as_text(kinds: Sequence[Sequence[Table]], format: str) -> str:
    """The tables as `rich`, `markdown`, `latex`, `csv` or `json`.

    Args:
        kinds: lists of tables with the same columns, which share one header as CSV.
        format: one of the names above.
    """
    tables = [table for kind in kinds for table in kind]
    if format == "json":
        whole = {"tables": [table.to_json() for table in tables]}
        return json.dumps(whole, allow_nan=False) + "\n"
    if format == "csv":
        texts = ["".join(t.to_csv(header=i == 0) for i, t in enumerate(kind)) for kind in kinds]
        return "\n".join(text for text in texts if text)
    if format == "rich":
        from rich.console import Console

        console = Console(highlight=False, width=FILE_WIDTH, no_color=True)
        with console.capture() as capture:
            _print(console, kinds)
        return capture.get()
    return "\n".join(t.to_markdown() if format == "markdown" else t.to_latex() for t in tables)


def _print(console: Console, kinds: Sequence[Sequence[Table]]) -> None:
    for table in [table for kind in kinds for table in kind]:
        console.print(table)
        console.print()
