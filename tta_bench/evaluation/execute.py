"""Runs a suite: plans its jobs, looks for mistakes, and has an executor do them into one group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.errors import WeightlessError
from tta_bench.evaluation.executors import executor_of
from tta_bench.evaluation.group import group_maker
from tta_bench.evaluation.plan import by_model, plan
from tta_bench.evaluation.setting import open_settings
from tta_bench.model.shape import load_shape
from tta_bench.store import Portion, Rerun

if TYPE_CHECKING:
    from tta_bench.evaluation.job import Job
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.suite import Suite
    from tta_bench.evaluation.workers.asked import AskedWorkers


def run_suite(
    suite: Suite,
    observer: Observer,
    *,
    name: str | None = None,
    base: str | None = None,
    results: Path = Path("results"),
    rerun: Rerun = "missing",
    plugins: Iterable[Path] = (),
    trust_remote_code: bool = False,
    debug: bool = False,
    workers: AskedWorkers | None = None,
    portion: Portion | None = None,
) -> Iterator[Path]:
    """Does what the suite asks for and is not stored; yields the folder of each run as it begins.

    Args:
        suite: models, datasets and methods under one protocol.
        observer: is told how far each method has come.
        name: name of the group of runs; without one it is named by `base` and what its runs share.
        base: by default the names of the first model and dataset.
        results: the folder that the group lies in.
        rerun: which documents of stored runs are read again: those that are `missing`, those that
            `failed`, too, or `all`.
        plugins: Python files that register methods.
        trust_remote_code: whether code that a hub repository brings may run.
        debug: let exceptions of methods through.
        workers: which share the work; None: this process does it.
        portion: the portion of the documents that is read, which takes workers; None for all.

    Raises:
        BenchError: nothing can run: unknown names, no documents, too long a window.
    """
    own: dict[str, Any] = {"trust_remote_code": trust_remote_code, "portion": portion}
    jobs = plan(suite, plugins=plugins, **own)
    options: dict[str, Any] = {"rerun": rerun, "debug": debug, "workers": workers}
    yield from run_jobs(jobs, observer, name=name, base=base, results=results, **options)


def run_jobs(
    jobs: Sequence[Job],
    observer: Observer,
    *,
    name: str | None = None,
    base: str | None = None,
    results: Path = Path("results"),
    rerun: Rerun = "missing",
    debug: bool = False,
    workers: AskedWorkers | None = None,
) -> Iterator[Path]:
    """Does the jobs of one group that are not stored; the arguments are those of `run_suite`.

    Raises:
        BenchError: nothing can run: no documents, too long a window.
    """
    look_ahead(jobs)
    group_of = group_maker(jobs, name=name, base=base, results=results)
    with executor_of(workers, observer, debug) as executor:
        yield from executor.execute(jobs, group_of, rerun)


def look_ahead(jobs: Sequence[Job]) -> None:
    """Opens the settings of every model but the first by its shape, so that mistakes show early.

    Those of the first are opened before any method runs, and then with its weights.

    Raises:
        BenchError: one of them cannot be run.
    """
    for jobs_of_model in by_model(jobs)[1:]:
        with suppress(WeightlessError):  # such a model is checked when its turn comes
            open_settings(jobs_of_model, load_shape(*jobs_of_model[0].setting.model_key))
