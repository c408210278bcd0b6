"""A row of the measurement: what was run on how many lanes, what it took, or why it did not."""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tta_bench.cost.memory import MemoryPeak
from tta_bench.engine.loop import failure


@dataclass(frozen=True)
class Measured:
    """One stretch of work on so many lanes.

    Attributes:
        step_seconds: of each timed step, all lanes together.
        flops_per_token: by formula (counted where there is none), for a scored token.
        peak: memory while the steps ran.
        set_up_seconds: making the method or the model's compiled form.
        warm_up_seconds: its first step, compilation included.
        harness_share: of the wall time of the run, what was neither a step nor a reset; None where
            nothing of the bench ran.
        state_bytes_per_lane: what the method keeps for a lane; None where there is no method.
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
    """What a row is of.

    Attributes:
        label: its name in the table.
        kind: `reference` (transformers alone) or `method`.
        about: what tells it from other rows, for those who derive ratios.
        measure: runs it on so many lanes.
        lanes: how many to try first.
    """

    label: str
    kind: str
    about: dict[str, Any]
    measure: Callable[[int], Measured]
    lanes: int


def measured_row(task: Task, chunk: int) -> dict[str, Any]:
    """Runs a task, on half the lanes for as long as memory runs out; JSON-able.

    A method is foreign code: whatever it raises is its row.
    """
    lanes = task.lanes
    while True:
        outcome = _attempt(task.measure, lanes)
        release_memory()
        if isinstance(outcome, Measured) or outcome[0] != "oom" or lanes == 1:
            break
        lanes //= 2
    row = {
        "label": task.label,
        "kind": task.kind,
        **task.about,
        "lanes": lanes,
        "lanes_asked": task.lanes,
        "chunk": chunk,
    }
    if isinstance(outcome, Measured):
        return row | {"status": "complete", "reason": None} | _figures(outcome, lanes * chunk)
    status, reason = outcome
    return row | {"status": status, "reason": reason}


def _attempt(measure: Callable[[int], Measured], lanes: int) -> Measured | tuple[str, str]:
    try:
        return measure(lanes)
    except (Exception, SystemExit) as error:
        return failure(error)


def release_memory() -> None:
    """Gives back what the last row held, compiled code too.

    A row that found code of another one would count no compilation as its own, and could take
    shapes for dynamic that are not.
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
