"""`tta-bench export`: the rows of stored runs as a table for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tta_bench.cli.metric_options import Metrics, Plugins, chosen_metrics
from tta_bench.cli.options import RESULTS, shown
from tta_bench.cli.selection import RUN_HELP


def export(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    format: Annotated[
        Literal["parquet", "csv", "json"], typer.Option(help="Format of the table.")
    ] = "csv",
    metric: Metrics = None,
    plugin: Plugins = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=shown("File to write, which parquet needs.", "standard output"),
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """Write one row per document, with the costs of its run; docs/results.md has the columns.

    A metric that is asked for is a column run_NAME; it is compared with the run of `none` under
    the same setting.
    """
    import io
    import sys

    from tta_bench.errors import UsageError
    from tta_bench.format import plain
    from tta_bench.store import find_runs
    from tta_bench.store.files import to_json, write_atomically
    from tta_bench.store.frame import frame_of, load_runs
    from tta_bench.tables import summary_rows

    if format == "parquet" and output is None:
        raise UsageError("parquet is not printed; name a file with --output.")
    metrics = chosen_metrics(metric, plugin)
    stored = load_runs(find_runs(run, results))
    rows = summary_rows(stored) if metrics else [{}] * len(stored)
    frame = frame_of(stored, [{f"run_{name}": row[name] for name in metrics} for row in rows])
    if format == "parquet":
        memory = io.BytesIO()
        frame.to_parquet(memory, index=False)
        data = memory.getvalue()
    elif format == "csv":
        data = frame.to_csv(index=False, lineterminator="\n").encode()
    else:
        # Not by frame.to_json: it cuts numbers to 15 digits.
        data = to_json(frame.astype(object).where(frame.notna(), None).to_dict("records"))
    if output is None:
        # A file gets what was stored; a terminal must not be steered by it.
        text = data.decode()
        typer.echo(plain(text, keep="\n") if sys.stdout.isatty() else text, nl=False)
    else:
        write_atomically(output, data)
        typer.echo(f"Wrote {len(frame):,} rows to {output}.", err=True)
