"""How the lanes of a step are spread over processes and forward passes."""

from __future__ import annotations

from dataclasses import dataclass

from tta_bench.errors import UsageError
from tta_bench.training.recipe import Schedule


@dataclass(frozen=True)
class Spread:
    """Batches of lanes, dealt to the processes in turn; the same deal at every step.

    A process therefore keeps its lanes, and their fast state, from the first step to the last.

    Attributes:
        lanes: lanes of all processes together.
        batch: lanes in one forward pass of one process.
        processes: number of processes.
    """

    lanes: int
    batch: int
    processes: int

    @property
    def rounds(self) -> int:
        """Forward passes of each process in a step."""
        return self.lanes // (self.batch * self.processes)

    def lanes_of(self, rank: int) -> list[int]:
        """The lanes that a process reads."""
        return [lane for lane in range(self.lanes) if lane // self.batch % self.processes == rank]


def spread_lanes(schedule: Schedule, processes: int) -> Spread:
    """The spread of a schedule's lanes over so many processes.

    Raises:
        UsageError: they cannot be divided evenly.
    """
    lanes, groups = schedule.lanes, len(schedule.windows)
    batch = schedule.batch or lanes // processes
    whole = max(1, batch) * processes
    if lanes % whole:
        batches = f" in batches of {batch}" if schedule.batch else ""
        raise UsageError(
            f"{lanes} lanes cannot be divided evenly among {processes} "
            f"{'process' if processes == 1 else 'processes'}{batches}: choose a multiple of "
            f"{whole}, such as --lanes {whole * max(1, round(lanes / whole))}."
        )
    if batch % groups:
        raise UsageError(
            f"batches of {batch} of the {lanes} lanes cannot be divided evenly among {groups} "
            f"windows: choose lanes or train.batch so that a batch is a multiple of {groups}."
        )
    return Spread(lanes, batch, processes)
