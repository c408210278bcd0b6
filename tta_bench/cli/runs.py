"""`tta-bench runs`: which runs are stored, and how far each one came."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tta_bench.cli.options import RESULTS, shown

if TYPE_CHECKING:
    from tta_bench.store.catalog import Entry
    from tta_bench.tables import Table


def runs(
    name: Annotated[
        str | None,
        typer.Argument(
            help=shown("Folder of a group, or its name in the results folder.", "all groups")
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help=shown("Runs to list, those written last.", "all"), min=1),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help=shown(
                "Columns to show, by heading in any case or its beginning; model, dataset and "
                "reason, too.",
                "all that the table has",
            ),
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """List stored runs with status, documents, age and size; the one written last comes last."""
    from tta_bench.cli.printing import output
    from tta_bench.format import plural
    from tta_bench.store import find_runs
    from tta_bench.store.catalog import list_runs
    from tta_bench.tables.choosing import names_of, with_columns

    folder = results if name is None else find_runs(name, results, published=True)
    found = list_runs(folder)
    entries = found[-limit:] if limit else found
    whole = len(entries) == len(found)
    counted = plural(len(found), "run") if whole else f"{len(entries):,} of {len(found):,} runs"
    names = names_of(columns)
    table = with_columns(_table(f"{counted} in {folder}", entries), names)
    if json_:
        values = [table.values(row) for row in table.rows] if names else map(_values, entries)
        typer.echo(json.dumps({"runs": list(values)}))
    elif not entries:
        typer.echo(f"{folder} holds no run yet; tta-bench eval writes one.")
    else:
        output().print(table)


def _values(entry: Entry) -> dict[str, Any]:
    return dataclasses.asdict(entry) | {"path": entry.path.as_posix()}


def _table(title: str, entries: list[Entry]) -> Table:
    from tta_bench.tables import Column, Table, labels_of

    methods = [entry.method or "" for entry in entries]
    rows = [
        _values(entry) | {"run": f"{entry.path.parent.name}/{entry.path.name}", "label": label}
        for entry, label in zip(entries, labels_of(methods), strict=True)
    ]
    columns = [
        Column("run", "run", left=True),
        Column("label", "method", left=True),
        Column("status", "status", left=True, show=_status, keep=True),
        Column("done", "documents", show=_documents, keep=True),
        Column("age_seconds", "age", show=lambda row: age(row["age_seconds"])),
        Column("size_bytes", "size", show=lambda row: size(row["size_bytes"])),
        *map(Column, ("model", "dataset", "reason", "path")),
    ]
    damaged = [entry.reason for entry in entries if entry.method is None and entry.reason]
    return Table(title, columns, rows, damaged)


def _status(row: Mapping[str, Any]) -> str:
    return str(row["status"]) + (f", {row['failed']} failed" if row["failed"] else "")


def _documents(row: Mapping[str, Any]) -> str:
    return f"{row['done']}/{'?' if row['total'] is None else row['total']}"


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
