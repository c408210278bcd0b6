"""`tta-bench show`: the summary table of stored runs, or a stored table of speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tta_bench.cli.metric_options import Metrics, Plugins, chosen_metrics
from tta_bench.cli.options import RESULTS
from tta_bench.cli.printing import print_tables, tables_as_text
from tta_bench.cli.selection import RUN_HELP

if TYPE_CHECKING:
    from tta_bench.tables import Table


def show(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    format: Annotated[
        Literal["rich", "markdown", "latex", "csv"], typer.Option(help="Format of the table.")
    ] = "rich",
    metric: Metrics = None,
    plugin: Plugins = None,
    documents: Annotated[
        bool, typer.Option("--documents", help="Show a row for each document, too.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with every metric instead.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """Print the summary table of a run or a group of runs, from stored rows alone.

    The name of a group that [bold]speed[/bold] stored prints the table of that command again.
    """
    from tta_bench.errors import UsageError
    from tta_bench.speed.store import read_speed
    from tta_bench.speed.table import speed_table
    from tta_bench.store import find_runs, load_group
    from tta_bench.tables import document_tables, summary_rows, summary_tables

    folder = find_runs(run, results)
    metrics = chosen_metrics(metric, plugin)
    speed = read_speed(folder)
    if speed is not None:
        if metrics:
            raise UsageError("a table that `speed` stored has no metrics; leave them out.")
        if json_:
            typer.echo(json.dumps(speed, allow_nan=False))
        else:
            _print([[speed_table(speed)]], format)
        return
    runs = load_group(folder)
    if json_:
        typer.echo(json.dumps({"rows": summary_rows(runs)}, allow_nan=False))
        return
    summary = summary_tables(runs, metrics=metrics)
    _print([summary, document_tables(runs) if documents else []], format)


def _print(kinds: list[list[Table]], format: str) -> None:
    if format == "rich":
        print_tables(kinds)
    else:
        typer.echo(tables_as_text(kinds, format), nl=False)
