"""A row of the measurement: what was run, on how many lanes, and what it took or why it failed."""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tta_bench.cost.memory import MemoryPeak
from tta_bench.engine.outcome import outcome_of
from tta_bench.engine.trial import halved_until_it_fits


@dataclass(frozen=True)
class Measured:
    """One stretch of work on so many lanes.

    Attributes:
        step_seconds: the time of each timed step, all lanes together.
        flops_per_token: FLOPs for a scored token, by formula, or counted if there is none.
        peak: the peaks of memory while the steps ran.
        set_up_seconds: the time it took to build the method or the model's compiled form.
        warm_up_seconds: the time of the first step, compilation included.
        harness_share: the share of the run's wall time that was neither a step nor a reset; None if
            nothing of the bench ran.
        state_bytes_per_lane: the bytes that the method keeps for a lane; None without a method.
    """

    step_seconds: Sequence[float]
    flops_per_token: float | None
    peak: MemoryPeak
    set_up_seconds: float
    warm_up_seconds: float
    harness_share: float | None = None
    state_bytes_per_lane: int | None = None


@dataclass(frozen=True)
class Task:
    """What a row measures.

    Attributes:
        label: its name in the table.
        kind: `reference` (transformers alone) or `method`.
        about: what tells it from other rows, for whoever derives ratios.
        measure: runs it on so many lanes.
        lanes: the number of lanes to try first.
    """

    label: str
    kind: str
    about: dict[str, Any]
    measure: Callable[[int], Measured]
    lanes: int


def measured_row(task: Task, chunk: int) -> dict[str, Any]:
    """Runs a task, on half the lanes as often as memory runs out; returns a row of JSON values.

    A method is foreign code: whatever it raises is its row.
    """
    lanes = task.lanes
    measured: Measured | None = None
    status, reason = "complete", None

    def attempt(now: int) -> Measured:
        nonlocal lanes
        lanes = now
        return task.measure(now)

    try:
        measured = halved_until_it_fits(lanes, attempt, lambda *_: release_memory())
    except (Exception, SystemExit) as error:
        status, reason = outcome_of(error)
    release_memory()
    row = {
        "label": task.label,
        "kind": task.kind,
        **task.about,
        "lanes": lanes,
        "lanes_asked": task.lanes,
        "chunk": chunk,
        "status": status,
        "reason": reason,
    }
    return row if measured is None else row | _figures(measured, lanes * chunk)


def release_memory() -> None:
    """Frees what the last row held, compiled code included.

    A row that found the code of another one would not pay for its own compilation, and could treat
    shapes as dynamic that are not.
    """
    if "torch._dynamo" in sys.modules:  # nothing was compiled where it is not; importing it is slow
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _figures(outcome: Measured, tokens: int) -> dict[str, Any]:
    median = statistics.median(outcome.step_seconds)
    return {
        "step_seconds": list(outcome.step_seconds),
        "step_seconds_median": median,
        "tokens_per_second": tokens / median,
        "flops_per_token": outcome.flops_per_token,
        "peak_allocated_bytes": outcome.peak.allocated_bytes,
        "peak_reserved_bytes": outcome.peak.reserved_bytes,
        "peak_process_bytes": outcome.peak.process_bytes,
        "set_up_seconds": outcome.set_up_seconds,
        "warm_up_seconds": outcome.warm_up_seconds,
        "harness_share": outcome.harness_share,
        "state_bytes_per_lane": outcome.state_bytes_per_lane,
    }
