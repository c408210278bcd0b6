"""`tta-bench runs`: which runs are stored, and how far each one came."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tta_bench.cli.options import RESULTS, shown

if TYPE_CHECKING:
    from tta_bench.store.catalog import Entry


def runs(
    name: Annotated[
        str | None,
        typer.Argument(
            help=shown("Folder of a group, or its name in the results folder.", "all groups")
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """List stored runs with status, documents, age and size; the one written last comes last."""
    from tta_bench.store import find_runs
    from tta_bench.store.catalog import list_runs

    folder = results if name is None else find_runs(name, results)
    entries = list_runs(folder)
    if json_:
        typer.echo(json.dumps({"runs": [_values(entry) for entry in entries]}))
    elif not entries:
        typer.echo(f"{folder} holds no run yet; tta-bench eval writes one.")
    else:
        _print(entries)


def _values(entry: Entry) -> dict[str, Any]:
    return dataclasses.asdict(entry) | {"path": entry.path.as_posix()}


def _print(entries: list[Entry]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tta_bench.format import plain

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for title in ("run", "method", "status"):
        table.add_column(title, overflow="fold")
    for title in ("documents", "age", "size"):
        table.add_column(title, justify="right", no_wrap=True)
    for entry in entries:
        cells = (
            f"{entry.path.parent.name}/{entry.path.name}",
            entry.method or "",
            entry.status + (f", {entry.failed} failed" if entry.failed else ""),
            f"{entry.done}/{'?' if entry.total is None else entry.total}",
            age(entry.age_seconds),
            size(entry.size_bytes),
        )
        table.add_row(*(Text(plain(cell)) for cell in cells))
    console = Console(highlight=False)
    console.print(table)
    for entry in entries:
        if entry.method is None and entry.reason:
            console.print(Text(plain(entry.reason)))


def age(seconds: float) -> str:
    """`40 s`, `3 min`, `5 h`, `12 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def size(number: int) -> str:
    """`812 B`, `1.2 MiB`."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 2**power:
            return f"{number / 2**power:.1f} {unit}"
    return f"{number} B"
