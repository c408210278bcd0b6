"""`tta-bench compare`: stored runs side by side, with tests; two of one method, what changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tta_bench.cli.selection import selected_runs

if TYPE_CHECKING:
    from tta_bench.tables import Table


def compare(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Folders of runs or groups, or names in results/.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Every group in results/ that bears a suite's name.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Column to sort by, its key or heading; the best first.")
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Method, or its spec, that the others are compared with.")
    ] = "none",
    by: Annotated[
        Literal["domain", "dataset", "document"] | None,
        typer.Option(help="A row for each of these; domain is the first folder of a key."),
    ] = None,
    format: Annotated[
        Literal["rich", "markdown", "latex", "csv", "json", "parquet"],
        typer.Option(help="How the tables are written; parquet holds the first kind alone."),
    ] = "rich",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of printing.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where runs are looked for by name.")] = Path(
        "results"
    ),
) -> None:
    """Compare stored runs: differences with intervals, p values and tiers, from rows alone.

    Runs of another protocol, model or other documents make a table of their own, whose title says
    what differs. Two runs of one method also show what changed between them.
    """
    from tta_bench.errors import UsageError
    from tta_bench.store.files import write_atomically
    from tta_bench.tables.changes import change_tables
    from tta_bench.tables.compare import compare_tables
    from tta_bench.tables.slices import slice_tables

    if format == "parquet" and output is None:
        raise UsageError("parquet is not printed; name a file with --output.")
    loaded = selected_runs(runs or [], suite, results)
    if by is None:
        kinds = [compare_tables(loaded, baseline, sort)]
        if len(loaded) == 2 and loaded[0].method == loaded[1].method:
            kinds += [[table] for table in change_tables(*loaded)]
    else:
        kinds = [slice_tables(loaded, by, baseline, sort)]
    if format == "rich" and output is None:
        from rich.console import Console

        console = Console(highlight=False)
        for table in [table for kind in kinds for table in kind]:
            console.print(table)
            console.print()
        return
    data = _parquet(kinds[0]) if format == "parquet" else _text(kinds, format).encode()
    if output is None:
        typer.echo(data.decode(), nl=False)
    else:
        write_atomically(output, data)
        typer.echo(f"Wrote {output}.", err=True)


def _text(kinds: list[list[Table]], format: str) -> str:
    tables = [table for kind in kinds for table in kind]
    if format == "json":
        whole = {"tables": [table.to_json() for table in tables]}
        return json.dumps(whole, allow_nan=False) + "\n"
    if format == "csv":  # tables of one kind have the same columns: one header
        texts = ["".join(t.to_csv(header=i == 0) for i, t in enumerate(kind)) for kind in kinds]
        return "\n".join(texts)
    if format == "rich":
        from rich.console import Console

        console = Console(highlight=False, width=160, no_color=True)
        with console.capture() as capture:
            for table in tables:
                console.print(table)
                console.print()
        return capture.get()
    return "\n".join(t.to_markdown() if format == "markdown" else t.to_latex() for t in tables)


def _parquet(tables: list[Table]) -> bytes:
    import io

    import pandas as pd

    keys = list(dict.fromkeys(column.key for table in tables for column in table.columns))
    rows = [
        {"table": table.title, **{key: row.get(key) for key in keys}}
        for table in tables
        for row in table.rows
    ]
    memory = io.BytesIO()
    pd.DataFrame(rows, columns=["table", *keys]).to_parquet(memory, index=False)
    return memory.getvalue()
