"""`tta-bench eval`: run methods on documents and print the summary table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tta_bench.cli.grouping import grouped
from tta_bench.cli.options import OUTPUT, RESULTS, Debug, Json, Name, Quiet, Results
from tta_bench.cli.suite_options import SuiteOptions

if TYPE_CHECKING:
    from tta_bench.store import Run

FAILED = 1


@grouped
def evaluate(
    options: SuiteOptions,
    name: Name = None,
    rerun: Annotated[
        Literal["missing", "failed", "all"],
        typer.Option(
            help="Documents of stored runs to read again: those that are missing, also those that "
            "failed, or all.",
            rich_help_panel=OUTPUT,
        ),
    ] = "missing",
    results: Results = RESULTS,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run methods on documents, store the runs, and print the summary table.

    With no options it runs the suite [bold]quickstart[/bold]: the built-in model on built-in text,
    in a minute on a CPU. What a suite's file says comes before the defaults below. The same command
    again does what is missing and nothing else; [bold]plan[/bold] says beforehand what that is. For
    example:

    tta-bench eval --model smollm2-135m --dataset builtin:stdlib --limit 3 --method none
    --method dynamic-eval:optimizer=adam,lr=1e-4
    """
    from tta_bench.evaluation.progress import Progress
    from tta_bench.store import load_run

    suite, base = options.resolve()
    paths: list[Path] = []
    interrupted = False
    with Progress(quiet=quiet) as progress:
        from tta_bench.evaluation.execute import run_suite

        try:
            for path in run_suite(
                suite,
                progress,
                name=name,
                base=base,
                results=results,
                rerun=rerun,
                plugins=options.plugin or [],
                trust_remote_code=options.trust_remote_code,
                debug=debug,
            ):
                paths.append(path)
        except KeyboardInterrupt:
            interrupted = True
    runs = [load_run(path) for path in paths]
    _print(runs, as_json)
    if interrupted:
        raise KeyboardInterrupt
    if any(run.failed for run in runs):
        raise typer.Exit(FAILED)


def _print(runs: list[Run], as_json: bool) -> None:
    from rich.console import Console

    from tta_bench.tables import summary_rows, summary_tables

    if as_json:
        print(json.dumps({"rows": summary_rows(runs)}), flush=True)
        return
    console = Console()
    for table in summary_tables(runs):
        console.print(table)
    if runs:
        where = runs[0].path.parent
        console.print(f"Stored in {where}. Next:", markup=False)
        for line in _next_steps(where, runs):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _next_steps(where: Path, runs: list[Run]) -> list[str]:
    """Commands that are worth a look now; two methods can be compared, one cannot."""
    steps = [(f"tta-bench show {where}", "these tables again")]
    if len({run.spec for run in runs}) > 1:
        steps += [
            (f"tta-bench compare {where}", "differences with intervals and tests"),
            (f"tta-bench report {where}", "a page with curves and costs"),
        ]
    width = max(len(command) for command, _ in steps)
    return [f"{command:<{width}}  {about}" for command, about in steps]
