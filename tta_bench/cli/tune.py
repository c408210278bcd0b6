"""`tta-bench tune`: the best values of methods' parameters on tuning documents."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tta_bench.cli.grouping import grouped
from tta_bench.cli.options import (
    OUTPUT,
    RESULTS,
    Debug,
    Json,
    Name,
    Quiet,
    Ray,
    Results,
    Workers,
    whole,
)
from tta_bench.cli.suite_options import METHODS, SuiteOptions
from tta_bench.documents.limits import LIMITS
from tta_bench.evaluation.workers.asked import asked_workers
from tta_bench.tuning.trials import TRIALS

if TYPE_CHECKING:
    from tta_bench.store.tuning import Tuning

Trials = Annotated[
    int,
    typer.Option(
        help="Points that Optuna tries where more than three parameters are sets.",
        **whole(1),
        rich_help_panel=METHODS,
    ),
]


@grouped
def tune(
    options: SuiteOptions,
    trials: Trials = TRIALS,
    workers: Workers = None,
    ray: Ray = None,
    name: Name = None,
    rerun: Annotated[
        Literal["missing", "failed", "all"],
        typer.Option(
            help="Documents of stored trials to read again: those that are missing, also those "
            "that failed, or all.",
            rich_help_panel=OUTPUT,
        ),
    ] = "missing",
    results: Results = RESULTS,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the best values of methods' parameters on tuning documents: those named here, or what
    [bold]tune:[/bold] in the suite says.

    A value with bars is a set: every combination of up to three sets is tried, then one parameter
    after another, and the set of a scale goes on beyond its ends until the best lies inside. Each
    trial is a stored run of the group NAME-tuning; the same command again does what is missing.
    [bold]eval --tuned-from[/bold] runs the best on other documents. For example:

    tta-bench tune --dataset builtin:pydoc --limit 2 --method 'dynamic-eval:lr=3e-5|1e-4|3e-4'
    """
    from tta_bench.evaluation.progress import Progress

    suite, base = options.resolve()
    if options.dataset:
        suite.tune = None
    elif suite.tune is not None:
        for limit in LIMITS:
            given = getattr(options, limit)
            setattr(suite.tune, limit, getattr(suite.tune, limit) if given is None else given)
    found: list[Tuning] = []
    with Progress(quiet=quiet) as progress:
        from tta_bench.tuning.execute import TuningRun

        run = TuningRun(
            suite,
            progress,
            name=name,
            base=base,
            results=results,
            rerun=rerun,
            plugins=options.plugin or [],
            trust_remote_code=options.trust_remote_code,
            debug=debug,
            trials=trials,
            workers=asked_workers(workers, ray),
        )
        found += run.tune()
    _print(found, results, as_json)


def _print(found: list[Tuning], results: Path, as_json: bool) -> None:
    from tta_bench.cli.printing import output, print_command, program
    from tta_bench.tables.tuned import tuning_table

    group = found[0].trials[0].runs[0].partition("/")[0]
    if as_json:
        whole = {"group": group, "methods": [one.to_dict() for one in found]}
        print(json.dumps(whole, allow_nan=False), flush=True)
        return
    for one in found:
        output().print(tuning_table(one))
    where = "" if results == RESULTS else f" --results {shlex.quote(str(results))}"
    print_command(f"Stored in {results / group}. Next, on other documents:")
    spaces = dict.fromkeys(one.space for one in found)
    methods = " ".join(f"--method {shlex.quote(space)}" for space in spaces)
    print_command(
        f"  {program()} eval --dataset DATASET --method none {methods} --tuned-from {group}{where}"
    )
