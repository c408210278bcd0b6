"""Which executor does the jobs: this process, or workers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tta_bench.evaluation.executor import Executor, ThisProcess
from tta_bench.evaluation.workers.local.crew import LocalCrew
from tta_bench.evaluation.workers.pool import Pool
from tta_bench.extras import require

if TYPE_CHECKING:
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.workers.asked import AskedWorkers
    from tta_bench.evaluation.workers.crew import Crew


@contextmanager
def executor_of(
    workers: AskedWorkers | None, observer: Observer, debug: bool = False
) -> Iterator[Executor]:
    """Workers, or, where none are asked for, this process.

    Args:
        workers: which share the work.
        observer: is told how far each method has come.
        debug: let exceptions of methods through.

    Raises:
        UsageError: Ray is not installed, or its address is none.
    """
    executor: Executor = ThisProcess(observer, debug)
    if workers is not None:
        executor = Pool(_crew(workers), observer, debug)
    try:
        with _imports_set_aside():
            yield executor
    finally:
        executor.close()


@contextmanager
def _imports_set_aside() -> Iterator[None]:
    """Has the garbage collector pass over what lives now: hundreds of thousands of objects that
    PyTorch and Transformers made when they were imported, which every run would look through three
    times. Where somebody else has set objects aside, theirs stay so.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _crew(workers: AskedWorkers) -> Crew[Any]:
    if workers.ray is None:
        assert workers.count is not None
        return LocalCrew(workers.count)
    require("ray", extra="ray", what="--ray")
    from tta_bench.evaluation.workers.cluster.crew import RayCrew

    return RayCrew(workers.ray, workers.count)
