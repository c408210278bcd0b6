"""A method through the engine, as `eval` runs it, on documents of random tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tta_bench.contract.method import Method
from tta_bench.cost.memory import PeakMemory
from tta_bench.cost.timing import synchronise
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import MethodError
from tta_bench.model.step_shape import StepShape
from tta_bench.speed.documents import synthetic_documents
from tta_bench.speed.plan import SEED, WARM_UP_STEPS, SpeedPlan
from tta_bench.speed.profile import profiled_step
from tta_bench.speed.row import Measured

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.model.language_model import LanguageModel


class _TimedEngine(Engine):
    """Also knows what resetting lanes took: the method's work, outside of any step."""

    reset_seconds = 0.0

    def _reset(self, lane: int) -> None:
        synchronise(self.device)
        start = time.perf_counter()
        super()._reset(lane)
        synchronise(self.device)
        self.reset_seconds += time.perf_counter() - start


def run_method(
    model: LanguageModel,
    choice: MethodChoice,
    plan: SpeedPlan,
    lanes: int,
    on_profile: Callable[[str], None] | None = None,
) -> Measured:
    """Times the steps of a fresh method on so many lanes.

    Args:
        on_profile: takes the text of the profile of one more step; None: no profile.

    Raises:
        MethodError: a loss was not finite, so that its lane fell idle and steps were not full.
    """
    torch.manual_seed(SEED)
    model.compiled = False  # until FLOPs are counted: the counter does not see into graphs
    started = time.perf_counter()
    method = choice.cls(model, choice.params, lanes)
    synchronise(model.device)
    set_up = time.perf_counter() - started
    protocol = Protocol(chunk=plan.chunk)
    engine = _TimedEngine(method, protocol, plan.prefix_id, debug=True, compile=plan.compile)
    flops_per_token = _flops_per_token(method, choice.name, plan)
    memory = PeakMemory(model.device)
    if model.device.type == "cuda":
        memory.start()  # what a captured step needs, it takes while it is captured
    shape = StepShape(plan.chunk, plan.chunk, 0)
    started = time.perf_counter()
    engine.warm_up(shape)
    synchronise(model.device)
    warm_up = time.perf_counter() - started

    steps = WARM_UP_STEPS + plan.steps
    documents = synthetic_documents(plan, lanes, steps, model.vocab_size)
    if model.device.type != "cuda":
        memory.start()
    engine.reset_seconds = 0.0
    started = time.perf_counter()
    for result in engine.run(documents):
        if result.status != "done":
            raise MethodError(f"{result.document.key}: {result.reason}")
    wall = time.perf_counter() - started
    peak = memory.stop()
    seconds = list(engine.timer.seconds)
    harness_share = 1 - (sum(seconds) + engine.reset_seconds) / wall
    if on_profile is not None:
        short = synthetic_documents(plan, lanes, 2, model.vocab_size)
        on_profile(profiled_step(engine, short))
    return Measured(
        step_seconds=seconds[WARM_UP_STEPS:],
        flops_per_token=flops_per_token,
        peak=peak,
        set_up_seconds=set_up,
        warm_up_seconds=warm_up,
        harness_share=harness_share,
        state_bytes_per_lane=method.state_bytes(),
    )


def _flops_per_token(method: Method, name: str, plan: SpeedPlan) -> float | None:
    """By formula over the timed steps; where there is none, what is counted in a first step."""
    shape = StepShape(plan.chunk, plan.chunk, 0)
    report = check_flops(method, shape, name)
    if report.analytic is None:
        return None if report.flops is None else report.flops / plan.chunk
    starts = range(
        WARM_UP_STEPS * plan.chunk, (WARM_UP_STEPS + plan.steps) * plan.chunk, plan.chunk
    )
    said = [method.flops(shape._replace(start=start)) or 0.0 for start in starts]
    return sum(said) / len(said) / plan.chunk
