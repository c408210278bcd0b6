"""`tta-bench show`: the summary table of stored runs, or a stored table of speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tta_bench.tables import Table


def show(
    run: Annotated[str, typer.Argument(help="Folder of a run or group, or its name in results/.")],
    format: Annotated[
        Literal["rich", "markdown", "latex", "csv"], typer.Option(help="How the table is written.")
    ] = "rich",
    documents: Annotated[
        bool, typer.Option("--documents", help="A row for each document, too.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object with every figure instead.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Where runs are looked for by name.")] = Path(
        "results"
    ),
) -> None:
    """Print the summary table of a run or a group of runs, from stored rows alone.

    Where NAME is what `tta-bench speed --name NAME` stored, that table.
    """
    from tta_bench.speed.store import read_speed
    from tta_bench.speed.table import speed_table
    from tta_bench.store import find_runs, load_group
    from tta_bench.tables import document_tables, summary_rows, summary_tables

    folder = find_runs(run, results)
    speed = read_speed(folder)
    if speed is not None:
        if json_:
            typer.echo(json.dumps(speed, allow_nan=False))
        else:
            _print([[speed_table(speed)]], format)
        return
    runs = load_group(folder)
    if json_:
        typer.echo(json.dumps({"rows": summary_rows(runs)}, allow_nan=False))
        return
    _print([summary_tables(runs), document_tables(runs) if documents else []], format)


def _print(tables: list[list[Table]], format: str) -> None:
    """Lists of tables of one kind each, written as asked."""
    if format == "rich":
        from rich.console import Console

        console = Console(highlight=False)
        for table in [table for kind in tables for table in kind]:
            console.print(table)
            console.print()
    elif format == "csv":  # tables of one kind have the same columns: one header
        texts = ["".join(t.to_csv(header=i == 0) for i, t in enumerate(kind)) for kind in tables]
        typer.echo("\n".join(text for text in texts if text), nl=False)
    else:
        kinds = [table for kind in tables for table in kind]
        texts = [t.to_markdown() if format == "markdown" else t.to_latex() for t in kinds]
        typer.echo("\n".join(texts), nl=False)
