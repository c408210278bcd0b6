"""`tta-bench compare`: stored runs side by side, with tests; two of one method, what changed."""

from __future__ import annotations

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
from tta_bench.cli.options import RESULTS, Caption, shown
from tta_bench.cli.printing import print_tables, require_captioned, tables_as_text
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
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COST=AMOUNT",
            help=shown(
                "Most that a row may cost, such as flops=2x (times the baseline) or flops=3GF a "
                "token, state=8MiB a lane, time=40ms for 1,000 tokens; names the best row within; "
                "repeat it for several.",
                "no limit",
            ),
        ),
    ] = None,
    frontier: Annotated[
        Literal["flops", "state", "time"] | None,
        typer.Option(
            help=shown(
                "Show only rows that nothing beats that costs as much or less of this.", "all rows"
            )
        ),
    ] = None,
    columns: Columns = None,
    metric: Metrics = None,
    plugin: Plugins = None,
    format: Annotated[
        Literal["rich", "markdown", "latex", "html", "csv", "json", "parquet"],
        typer.Option(help="Format of the tables; parquet leaves out what changed between runs."),
    ] = "rich",
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, as --format json does.")
    ] = False,
    caption: Caption = None,
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
    from tta_bench.store.files import write_output
    from tta_bench.tables.budget import COSTS, limit_of
    from tta_bench.tables.changes import change_tables
    from tta_bench.tables.choosing import names_of
    from tta_bench.tables.compare import compare_tables
    from tta_bench.tables.slices import slice_tables

    kind = "json" if json_ else format
    if kind == "parquet" and output is None:
        raise UsageError("parquet is not printed; name a file with --output.")
    require_captioned(caption, kind)
    limits, names = [limit_of(text) for text in budget or []], names_of(columns)
    if by is not None and (limits or frontier):
        raise UsageError("a slice has no costs: leave out --by, or --budget and --frontier.")
    metrics = chosen_metrics(metric, plugin, names)
    loaded = selected_runs(runs or [], suite, results)
    require_metrics(metrics, loaded)
    if by is None:
        cost = COSTS[frontier] if frontier else None
        # Only data hold what takes random numbers, unless it is asked for by name.
        drawn = kind in ("csv", "json", "parquet") or bool(sort or names)
        kinds = [compare_tables(loaded, baseline, sort, metrics, names, limits, cost, drawn)]
        if len(loaded) == 2 and loaded[0].method == loaded[1].method:
            kinds += [[table] for table in change_tables(*loaded)]
    else:
        kinds = [slice_tables(loaded, by, baseline, sort, metrics, names)]
    if kind == "rich" and output is None:
        print_tables(kinds)
        return
    data = (
        _parquet(kinds[0]) if kind == "parquet" else tables_as_text(kinds, kind, caption).encode()
    )
    if output is None:
        typer.echo(data.decode(), nl=False)
    else:
        write_output(output, data)
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
