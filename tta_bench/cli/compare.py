"""`tta-bench compare`: stored runs side by side, with tests; two of one method, what changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tta_bench.cli.metric_options import Metrics, Plugins, chosen_metrics
from tta_bench.cli.options import RESULTS, shown
from tta_bench.cli.printing import print_tables, tables_as_text
from tta_bench.cli.selection import RUNS_HELP, Suite, selected_runs

if TYPE_CHECKING:
    from tta_bench.tables import Table


def compare(
    runs: Annotated[list[str] | None, typer.Argument(help=RUNS_HELP)] = None,
    suite: Suite = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help=shown("Column to sort by, its key or heading; the best first.", "order of start")
        ),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Method, or its spec, that the others are compared with.")
    ] = "none",
    by: Annotated[
        Literal["domain", "dataset", "document"] | None,
        typer.Option(
            help=shown(
                "Slices to show a row of each; a domain is the first folder of a document's key.",
                "whole runs",
            )
        ),
    ] = None,
    metric: Metrics = None,
    plugin: Plugins = None,
    format: Annotated[
        Literal["rich", "markdown", "latex", "csv", "json", "parquet"],
        typer.Option(help="Format of the tables; parquet leaves out what changed between runs."),
    ] = "rich",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=shown("File to write.", "standard output"))
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """Compare stored runs: differences with intervals, p values and tiers, from rows alone.

    Runs are compared under one setting: the same model, documents, protocol, dtype and device. Each
    setting has a table of its own, whose title says what differs. For two runs of one method it
    also shows what changed from the first to the second.
    """
    from tta_bench.errors import UsageError
    from tta_bench.store.files import write_atomically
    from tta_bench.tables.changes import change_tables
    from tta_bench.tables.compare import compare_tables
    from tta_bench.tables.slices import slice_tables

    if format == "parquet" and output is None:
        raise UsageError("parquet is not printed; name a file with --output.")
    metrics = chosen_metrics(metric, plugin)
    loaded = selected_runs(runs or [], suite, results)
    if by is None:
        kinds = [compare_tables(loaded, baseline, sort, metrics)]
        if len(loaded) == 2 and loaded[0].method == loaded[1].method:
            kinds += [[table] for table in change_tables(*loaded)]
    else:
        kinds = [slice_tables(loaded, by, baseline, sort, metrics)]
    if format == "rich" and output is None:
        print_tables(kinds)
        return
    data = _parquet(kinds[0]) if format == "parquet" else tables_as_text(kinds, format).encode()
    if output is None:
        typer.echo(data.decode(), nl=False)
    else:
        write_atomically(output, data)
        typer.echo(f"Wrote {output}.", err=True)


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
