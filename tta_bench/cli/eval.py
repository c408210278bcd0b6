"""`tta-bench eval`: run methods on documents and print the summary table."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tta_bench.cli.grouping import grouped
from tta_bench.cli.metric_options import Columns, Metrics, chosen_metrics
from tta_bench.cli.options import (
    OUTPUT,
    RESULTS,
    Debug,
    Json,
    Name,
    Quiet,
    Ray,
    Results,
    Shard,
    Workers,
    shown,
)
from tta_bench.cli.suite_options import METHODS, SuiteOptions
from tta_bench.cli.tune import Trials
from tta_bench.evaluation.workers.asked import asked_workers
from tta_bench.tuning.trials import TRIALS

if TYPE_CHECKING:
    from tta_bench.evaluation.progress import Progress
    from tta_bench.evaluation.suite import Suite
    from tta_bench.store import Run

FAILED = 1


@grouped
def evaluate(
    options: SuiteOptions,
    tuned_from: Annotated[
        str | None,
        typer.Option(
            help=shown(
                "Group of tune, or a tuned run: its choices stand for sets of values and for bare "
                "names of methods.",
                "no group",
            ),
            rich_help_panel=METHODS,
        ),
    ] = None,
    trials: Trials = TRIALS,
    workers: Workers = None,
    ray: Ray = None,
    shard: Shard = None,
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
    metric: Metrics = None,
    columns: Columns = None,
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
    from tta_bench.store import Portion, load_run
    from tta_bench.tables.choosing import names_of
    from tta_bench.tables.summary import require_columns

    portion = None if shard is None else Portion.parse(shard)
    names = names_of(columns)
    require_columns(names)
    metrics = chosen_metrics(metric, None, names)
    suite, base = options.resolve()
    paths: list[Path] = []
    interrupted = False
    alone = 1 if workers is None and ray is None else workers  # a portion takes workers
    with Progress(quiet=quiet) as progress:
        shared: dict[str, Any] = {
            "name": name,
            "base": base,
            "results": results,
            "rerun": rerun,
            "plugins": options.plugin or [],
            "trust_remote_code": options.trust_remote_code,
            "debug": debug,
            "workers": asked_workers(alone if portion is not None else workers, ray),
            "portion": portion,
        }
        try:
            for path in _runs(suite, progress, tuned_from, trials, shared):
                paths.append(path)
        except KeyboardInterrupt:
            interrupted = True
        runs = [load_run(path) for path in paths]
        if not interrupted:
            from tta_bench.evaluation.key_tokens import make_asked_for

            make_asked_for(runs, metrics, progress, options.trust_remote_code)
    _print(runs, metrics, as_json, interrupted, names)
    if interrupted:
        raise KeyboardInterrupt
    if any(run.failed for run in runs):
        raise typer.Exit(FAILED)


def _runs(
    suite: Suite, progress: Progress, tuned_from: str | None, trials: int, shared: dict[str, Any]
) -> Iterator[Path]:
    """The folder of each run as it begins: as they stand, tuned first, or as tuned earlier."""
    if tuned_from is not None:
        from tta_bench.tuning.stored import run_from

        return run_from(suite, progress, tuned_from=tuned_from, **shared)
    if suite.tune is not None:
        from tta_bench.errors import UsageError
        from tta_bench.tuning.execute import TuningRun, has_sets
        from tta_bench.tuning.parts import reported_part

        if has_sets(suite):
            if shared.pop("portion") is not None:
                raise UsageError(
                    "--shard reads documents that are reported, and values are chosen before: run "
                    "tune with this suite, then eval --tuned-from its group, with --shard."
                )
            return TuningRun(suite, progress, trials=trials, **shared).evaluate()
        suite = reported_part(suite)  # flags have left no method to be tuned
    from tta_bench.evaluation.execute import run_suite

    return run_suite(suite, progress, **shared)


def _print(
    runs: list[Run],
    metrics: list[str],
    as_json: bool,
    interrupted: bool = False,
    columns: Sequence[str] = (),
) -> None:
    from tta_bench.cli.printing import output, print_command, print_text
    from tta_bench.tables import summary_tables
    from tta_bench.tables.summary import chosen_rows

    if as_json:
        print(json.dumps({"rows": chosen_rows(runs, metrics, columns)}), flush=True)
        return
    for table in summary_tables(runs, metrics=metrics, columns=columns):
        output().print(table)
    if interrupted:
        print_text("Interrupted: the same command again goes on from here.")
    elif runs:
        where = runs[0].path.parent
        print_command(f"Stored in {where}. Next:")
        for line in _next_steps(where, runs):
            print_command(f"  {line}")


def _next_steps(where: Path, runs: list[Run]) -> list[str]:
    """Commands that are worth a look now; two methods can be compared, one cannot."""
    from tta_bench.cli.printing import program

    bench, group = program(), shlex.quote(str(where))
    steps = [(f"{bench} show {group}", "# these tables again")]
    if len({run.spec for run in runs}) > 1:
        steps += [
            (f"{bench} compare {group}", "# differences with intervals and tests"),
            (f"{bench} report {group}", "# a page with curves and costs"),
        ]
    width = max(len(command) for command, _ in steps)
    return [f"{command:<{width}}  {about}" for command, about in steps]
