"""Runs a suite: plans its jobs, looks for mistakes, and has an executor do them into one group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.errors import WeightlessError
from tta_bench.evaluation.executor import ThisProcess
from tta_bench.evaluation.group import group_identity
from tta_bench.evaluation.plan import by_model, plan
from tta_bench.evaluation.setting import open_settings
from tta_bench.model.shape import load_shape
from tta_bench.store import Rerun, create_group

if TYPE_CHECKING:
    from tta_bench.evaluation.job import Job
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.suite import Suite


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

    Raises:
        BenchError: nothing can run: unknown names, no documents, too long a window.
    """
    jobs = plan(suite, plugins=plugins, trust_remote_code=trust_remote_code)
    look_ahead(jobs)
    group: Path | None = None

    def group_of(manifest: dict[str, Any]) -> Path:
        nonlocal group
        if group is None:
            group = create_group(name, **group_identity(jobs, manifest, base), results=results)
        return group

    yield from ThisProcess(observer, debug).execute(jobs, group_of, rerun)


def look_ahead(jobs: Sequence[Job]) -> None:
    """Opens the settings of every model but the first by its shape, so that mistakes show early.

    Those of the first are opened before any method runs, and then with its weights.

    Raises:
        BenchError: one of them cannot be run.
    """
    for jobs_of_model in by_model(jobs)[1:]:
        with suppress(WeightlessError):  # such a model is checked when its turn comes
            open_settings(jobs_of_model, load_shape(*jobs_of_model[0].setting.model_key))
