"""`tta-bench report`: stored runs as one HTML page, and its figures as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tta_bench.cli.metric_options import Metrics, Plugins, chosen_metrics, require_metrics
from tta_bench.cli.options import RESULTS, shown
from tta_bench.cli.selection import RUNS_HELP, Suite, selected_runs


def report(
    runs: Annotated[list[str] | None, typer.Argument(help=RUNS_HELP)] = None,
    suite: Suite = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File of the page, which needs no other.")
    ] = Path("report.html"),
    png: Annotated[
        Path | None,
        typer.Option(help=shown("Folder for the page's figures as PNG files.", "no such files")),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Method, or its spec, that the others are compared with.")
    ] = "none",
    metric: Metrics = None,
    plugin: Plugins = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: what was written and left out.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """Write an HTML page of stored runs: tables, costs, curves, slices, coloured excerpts.

    Curves need the losses of single tokens (nll/ in a run's folder). Slices by token and excerpts
    need the documents, which are opened again as the manifest names them; no weights are loaded.
    """
    from tta_bench.evaluation.reopen import reopen
    from tta_bench.extras import require
    from tta_bench.report import build_report
    from tta_bench.report.page import page_of
    from tta_bench.report.png import write_figures
    from tta_bench.store.files import write_output

    modules = ["plotly"] if png is None else ["plotly", "matplotlib"]
    require(*modules, extra="report", what="the report")
    metrics = chosen_metrics(metric, plugin)
    loaded = selected_runs(runs or [], suite, results)
    require_metrics(metrics, loaded)
    content = build_report(loaded, baseline, metrics, reopen=reopen)
    page = page_of(content).encode()
    write_output(output, page)
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
