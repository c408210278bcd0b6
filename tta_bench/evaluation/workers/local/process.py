"""The driver's side of one worker: starts the process, sends it tasks, and tells how it ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tta_bench.evaluation.part import Broken
from tta_bench.evaluation.workers.crew import Member
from tta_bench.evaluation.workers.local.child import main
from tta_bench.evaluation.workers.local.machine import environment_of, memory_kills

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from tta_bench.evaluation.workers.messages import Task

_PATIENCE = 2.0
"""Seconds that an ended process is waited for."""


class WorkerProcess(Member):
    """One worker process.

    Args:
        number: its place, which decides its GPUs.
        device: as `--device` takes it.
        threads: of PyTorch.
        gpus: that it has, where there are any.
    """

    def __init__(self, number: int, device: str, threads: int, gpus: int = 1):
        super().__init__(number)
        self._kills = memory_kills()
        context = multiprocessing.get_context("spawn")  # a fork cannot use CUDA
        here, there = context.Pipe()
        self.connection: Connection = here
        # No daemon: a method that is isolated has a process of its own, which it starts.
        self.process: SpawnProcess = context.Process(
            target=main, args=(there, device, threads), name=f"tta-bench-worker-{number}"
        )
        with _environment(environment_of(number, threads, device, gpus)), _deaf():
            self.process.start()
        there.close()

    def hear(self) -> object:
        """What it says next; None if it has ended."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def ended(self) -> Broken:
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        kills = memory_kills()
        if code == -signal.SIGKILL and kills is not None and kills > (self._kills or 0):
            return "oom", "the system ended its worker because memory ran out"
        how = f"exit code {code}"
        if code is None:
            how = "its connection was closed"
        elif code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        return "error", f"its worker ended ({how})"

    def end(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()

    def _send(self, task: Task) -> None:
        with suppress(OSError):
            self.connection.send(task)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that a process started inside the block finds before it imports anything."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C reaches no process that is started inside the block, from its first moment on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
