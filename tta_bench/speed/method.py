"""A method through the engine, as `eval` runs it, on documents of random tokens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tta_bench.engine.flop_check import flops_per_token
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.trial import Trial, TrialSetup
from tta_bench.errors import MethodError
from tta_bench.model.step_shape import StepShape
from tta_bench.speed.documents import synthetic_documents
from tta_bench.speed.plan import SEED, WARM_UP_STEPS, SpeedPlan
from tta_bench.speed.profile import profiled_step
from tta_bench.speed.row import Measured

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.model.language_model import LanguageModel


def run_method(
    model: LanguageModel,
    choice: MethodChoice,
    plan: SpeedPlan,
    lanes: int,
    on_profile: Callable[[str], None] | None = None,
) -> Measured:
    """Times the steps of a fresh method on so many lanes.

    Args:
        model: the model, shared with other methods.
        choice: the method.
        plan: the chunk and the number of steps.
        lanes: the number of documents that are read side by side.
        on_profile: takes the text of the profile of one more step; None: no profile.

    Raises:
        MethodError: a loss was not finite, so that its lane fell idle and steps were not full.
    """
    protocol = Protocol(chunk=plan.chunk)
    setup = TrialSetup(model, choice, protocol, plan.prefix_id, plan.shape, SEED, debug=True)
    documents = synthetic_documents(plan, lanes, WARM_UP_STEPS + plan.steps, model.readable_ids)
    trial = Trial(setup, lanes, plan.compile)
    engine = trial.engine
    started = time.perf_counter()
    for result in engine.run(documents):
        if result.status != "done":
            raise MethodError(f"{result.document.key}: {result.reason}")
    wall = time.perf_counter() - started
    peak = trial.peak()
    seconds = list(engine.timer.seconds)
    harness_share = 1 - (sum(seconds) + engine.reset_seconds) / wall
    if on_profile is not None:
        short = synthetic_documents(plan, lanes, 2, model.readable_ids)
        on_profile(profiled_step(engine, short))
    return Measured(
        step_seconds=seconds[WARM_UP_STEPS:],
        flops_per_token=flops_per_token(trial.method, trial.flops, _timed_steps(plan)),
        peak=peak,
        set_up_seconds=trial.set_up_seconds,
        warm_up_seconds=trial.warm_up_seconds,
        harness_share=harness_share,
        state_bytes_per_lane=trial.method.state_bytes(),
    )


def _timed_steps(plan: SpeedPlan) -> Counter[StepShape]:
    """The steps of a lane whose times are kept, each once."""
    numbers = range(WARM_UP_STEPS, WARM_UP_STEPS + plan.steps)
    return Counter(StepShape(plan.chunk, plan.chunk, 0, n * plan.chunk) for n in numbers)
