"""`tta-bench export`: the rows of stored runs as a table for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tta_bench.cli.metric_options import (
    Columns,
    Metrics,
    Plugins,
    chosen_metrics,
    require_metrics,
)
from tta_bench.cli.options import RESULTS, Caption, shown
from tta_bench.cli.printing import require_captioned, tables_as_text
from tta_bench.cli.selection import RUN_HELP


def export(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    format: Annotated[
        Literal["parquet", "csv", "json", "latex", "html", "tar.xz"],
        typer.Option(
            help="Format: data, a row per document; a table to print, a row per run; or tar.xz, "
            "the runs themselves in one file, which every command that reads takes for them."
        ),
    ] = "csv",
    columns: Columns = None,
    caption: Caption = None,
    metric: Metrics = None,
    plugin: Plugins = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=shown("File to write, which parquet and tar.xz need.", "standard output"),
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """Write stored runs for other programs: one row per document, with the costs of its run.

    docs/results.md has the columns. A metric that is asked for is a column run_NAME; it is compared
    with the run of `none` under the same setting. For a paper or a page, latex and html write the
    tables of [bold]compare[/bold], with the --columns and the --caption that are asked for. tar.xz
    leaves out the losses of single tokens; `results/NAME.tar.xz` is read as `results/NAME` is.
    """
    import io

    from tta_bench.errors import UsageError
    from tta_bench.format import plural
    from tta_bench.store import find_runs, load_group
    from tta_bench.store.archive import packed
    from tta_bench.store.files import to_json
    from tta_bench.store.frame import frame_of, load_runs
    from tta_bench.tables.choosing import names_of
    from tta_bench.tables.compare import compare_tables
    from tta_bench.tables.row import run_rows

    if format in ("parquet", "tar.xz") and output is None:
        raise UsageError(f"{format} is not printed; name a file with --output.")
    require_captioned(caption, format)
    names, printed = names_of(columns), format in ("latex", "html")
    if names and not printed:
        raise UsageError("--columns is of tables to print; add --format latex or --format html.")
    metrics = chosen_metrics(metric, plugin, names)
    folder = find_runs(run, results, published=True)
    if format == "tar.xz":
        _write(packed(folder), output, plural(len(load_group(folder)), "run"))
        return
    stored = load_group(folder) if printed else load_runs(folder)
    require_metrics(metrics, stored)
    if printed:
        tables = compare_tables(stored, metrics=metrics, columns=names)
        data = tables_as_text([tables], format, caption).encode()
        _write(data, output, plural(len(tables), "table"))
        return
    rows = run_rows(stored, metrics) if metrics else [{}] * len(stored)
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
    _write(data, output, plural(len(frame), "row"))


def _write(data: bytes, output: Path | None, what: str) -> None:
    import sys

    from tta_bench.format import plain
    from tta_bench.store.files import write_output

    if output is None:
        # A file gets what was stored; a terminal must not be steered by it.
        text = data.decode()
        typer.echo(plain(text, keep="\n") if sys.stdout.isatty() else text, nl=False)
    else:
        write_output(output, data)
        typer.echo(f"Wrote {what} to {output}.", err=True)
