"""`tta-bench export`: the rows of stored runs as a table for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    run: Annotated[str, typer.Argument(help="Folder of a run or group, or its name in results/.")],
    format: Annotated[
        Literal["parquet", "csv", "json"], typer.Option(help="How the table is written.")
    ] = "csv",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; without it, csv and json are printed."),
    ] = None,
    results: Annotated[Path, typer.Option(help="Where runs are looked for by name.")] = Path(
        "results"
    ),
) -> None:
    """Write one row a document, with the figures of its run; docs/results.md has the columns."""
    import io
    import sys

    from tta_bench.errors import UsageError
    from tta_bench.format import plain
    from tta_bench.store import find_runs
    from tta_bench.store.files import to_json, write_atomically
    from tta_bench.store.frame import load_results

    if format == "parquet" and output is None:
        raise UsageError("parquet is not printed; name a file with --output.")
    frame = load_results(find_runs(run, results))
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
