"""`tta-bench report`: stored runs as one HTML page, and its figures as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tta_bench.cli.selection import selected_runs


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Folders of runs or groups, or names in results/.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Every group in results/ that bears a suite's name.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page, one file that needs nothing else.")
    ] = Path("report.html"),
    png: Annotated[
        Path | None, typer.Option(help="Folder for the same figures as PNG files.")
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Method, or its spec, that the others are compared with.")
    ] = "none",
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object: what was written, what is left out.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Where runs are looked for by name.")] = Path(
        "results"
    ),
) -> None:
    """Write an HTML page of stored runs: tables, costs, curves, slices, coloured texts.

    Curves need the losses of single tokens (nll/ in a run's folder). Slices by token and coloured
    texts need the documents, which are opened again from the manifest; no weights are loaded.
    """
    from tta_bench.evaluation.reopen import reopen
    from tta_bench.extras import require
    from tta_bench.report import build_report
    from tta_bench.report.page import page_of
    from tta_bench.report.png import write_figures
    from tta_bench.store.files import write_atomically

    modules = ["plotly"] if png is None else ["plotly", "matplotlib"]
    require(*modules, extra="report", what="the report")
    content = build_report(selected_runs(runs or [], suite, results), baseline, reopen=reopen)
    page = page_of(content).encode()
    write_atomically(output, page)
    files = [] if png is None else write_figures(content, png)
    typer.echo(f"Wrote {output} ({len(page) / 1e6:.1f} MB).", err=True)
    if files:
        typer.echo(f"Wrote {len(files)} figures to {png}/.", err=True)
    for sentence in content.left_out:
        typer.echo(f"Left out: {sentence}", err=True)
    if json_:
        written = {
            "page": output.as_posix(),
            "bytes": len(page),
            "figures": [file.as_posix() for file in files],
            "left_out": content.left_out,
        }
        typer.echo(json.dumps(written, ensure_ascii=False))
