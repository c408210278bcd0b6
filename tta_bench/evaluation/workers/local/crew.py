"""The crew of this machine: processes, each of which is heard through a pipe of its own."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from tta_bench.evaluation.workers.crew import PATIENCE, Crew
from tta_bench.evaluation.workers.fixed import cores, crowding, threads_of
from tta_bench.evaluation.workers.local.machine import check_workers, gpus_of
from tta_bench.evaluation.workers.local.process import WorkerProcess

if TYPE_CHECKING:
    from tta_bench.evaluation.job import SettingSpec


class LocalCrew(Crew[WorkerProcess]):
    """So many processes on this machine.

    Args:
        count: of them.
    """

    def __init__(self, count: int):
        super().__init__(count)
        self._device, self._gpus = "auto", 1

    def listen(self) -> Iterator[tuple[WorkerProcess, object]]:
        by_connection: dict[Any, WorkerProcess] = {one.connection: one for one in self.members}
        for connection in wait(list(by_connection), PATIENCE):
            yield by_connection[connection], by_connection[connection].hear()

    def _open(self, spec: SettingSpec) -> list[str]:
        check_workers(self.count, spec)
        self._device, self.threads = spec.device, threads_of(spec.device, cores() // self.count)
        self._gpus = gpus_of(self.count, spec)
        return crowding(self.count, self.threads)

    def _hire(self, number: int) -> WorkerProcess:
        return WorkerProcess(number, self._device, self.threads, self._gpus)
