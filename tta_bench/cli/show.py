"""`tta-bench show`: the summary table of stored runs, or a stored table of speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tta_bench.cli.metric_options import (
    Columns,
    Metrics,
    Plugins,
    chosen_metrics,
    require_metrics,
)
from tta_bench.cli.options import RESULTS
from tta_bench.cli.printing import print_tables, tables_as_text
from tta_bench.cli.selection import RUN_HELP

if TYPE_CHECKING:
    from tta_bench.store import Run
    from tta_bench.tables import Table


def show(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    format: Annotated[
        Literal["rich", "markdown", "latex", "html", "csv"],
        typer.Option(help="Format of the table."),
    ] = "rich",
    columns: Columns = None,
    metric: Metrics = None,
    plugin: Plugins = None,
    documents: Annotated[
        bool, typer.Option("--documents", help="Show a row for each document, too.")
    ] = False,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Show loss and gain by position, too, answers by their lag, and the stream.",
        ),
    ] = False,
    json_: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object instead, with every metric or the --columns."
        ),
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
    from tta_bench.tables import document_tables, summary_tables
    from tta_bench.tables.choosing import names_of, with_columns
    from tta_bench.tables.summary import chosen_rows

    folder = find_runs(run, results, published=True)
    names = names_of(columns)
    speed = read_speed(folder)
    if speed is not None:
        if metric or plugin or curve:
            raise UsageError("a table that `speed` stored has no metrics, no curves; ask for none.")
        table = with_columns(speed_table(speed), names)
        if json_:
            chosen = [table.values(row) for row in table.rows]
            typer.echo(json.dumps(speed | {"rows": chosen}, allow_nan=False))
        else:
            _print([[table]], format)
        return
    metrics = chosen_metrics(metric, plugin, names)
    runs = load_group(folder)
    require_metrics(metrics, runs)
    curves = _curves(runs) if curve else []
    if json_:
        whole = {"rows": chosen_rows(runs, metrics, names)}
        if curve:
            whole["curves"] = [row for table in curves for row in table.to_json()["rows"]]
        typer.echo(json.dumps(whole, allow_nan=False))
        return
    summary = summary_tables(runs, metrics=metrics, columns=names)
    kinds = [summary, document_tables(runs) if documents else []]
    _print([*kinds, *([table] for table in curves)], format)


def _curves(runs: list[Run]) -> list[Table]:
    from tta_bench.errors import BenchError
    from tta_bench.report.drift import drift_tables
    from tta_bench.report.position import position_tables
    from tta_bench.report.recall import recall_tables

    tables, sentences = position_tables(runs)
    answers, more = recall_tables(runs)
    tables, sentences = [*tables, *answers], [*sentences, *more]
    stream, missing = drift_tables(runs)
    tables, sentences = [*tables, *stream], [*sentences, *missing]
    if not tables:
        raise BenchError(f"there is no curve to show: {sentences[0]}")
    for sentence in sentences:
        typer.echo(f"Left out: {sentence}", err=True)
    return tables


def _print(kinds: list[list[Table]], format: str) -> None:
    if format == "rich":
        print_tables(kinds)
    else:
        typer.echo(tables_as_text(kinds, format), nl=False)
