"""Tables on the terminal, and as the text of a file."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from tta_bench.tables import Table

PROGRAM = "tta-bench"
UNBOUND = 10_000
"""Columns where there is no terminal: every line is as long as it needs to be."""


def width() -> int:
    """Columns of the terminal, or what COLUMNS says; UNBOUND where there is neither."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return shutil.get_terminal_size().columns if known else UNBOUND


def output() -> Console:
    """Standard output, for tables."""
    from rich.console import Console

    return Console(highlight=False, width=width())


def print_tables(kinds: Sequence[Sequence[Table]]) -> None:
    """Prints tables, each followed by an empty line."""
    _print(output(), kinds)


def print_text(text: str) -> None:
    """Prints prose, broken between words; what steers a terminal is escaped."""
    from rich.text import Text

    from tta_bench.format import plain

    output().print(Text(plain(text)))


def print_command(line: str) -> None:
    """Prints a line that holds a command, which is never broken, so that it can be pasted."""
    from rich.text import Text

    from tta_bench.format import plain

    output().print(Text(plain(line)), soft_wrap=True)


def program() -> str:
    """What to type to run the bench again: its name, or the path by which it was called if the
    shell does not find the name.
    """
    called = sys.argv[0]
    if os.path.basename(called) != PROGRAM or shutil.which(PROGRAM) is not None:
        return PROGRAM
    return shlex.quote(called)


def tables_as_text(
    kinds: Sequence[Sequence[Table]], format: str, caption: str | None = None
) -> str:
    """The tables as `rich`, `markdown`, `latex`, `html`, `csv` or `json`.

    Args:
        kinds: lists of tables with the same columns, which share one header as CSV.
        format: one of the names above.
        caption: what LaTeX and HTML say of each table in place of its title; of several tables,
            in front of it.
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

        console = Console(highlight=False, width=UNBOUND, no_color=True)
        with console.capture() as capture:
            _print(console, kinds)
        return capture.get()
    if format == "markdown":
        return "\n".join(table.to_markdown() for table in tables)
    texts = []
    for table in tables:
        own = f"{caption}: {table.title}" if caption and len(tables) > 1 else caption
        texts.append(table.to_latex(own) if format == "latex" else table.to_html(own))
    return "\n".join(texts)


def require_captioned(caption: str | None, format: str) -> None:
    """Refuses a caption of a format that has none.

    Raises:
        UsageError: the format is neither `latex` nor `html`.
    """
    from tta_bench.errors import UsageError

    if caption is not None and format not in ("latex", "html"):
        raise UsageError("--caption is of LaTeX and HTML; add --format latex or --format html.")


def _print(console: Console, kinds: Sequence[Sequence[Table]]) -> None:
    for table in [table for kind in kinds for table in kind]:
        console.print(table)
        console.print()
