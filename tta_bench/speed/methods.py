"""Which methods are timed: those that are asked for, or those that run on the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.contract.registry import load
from tta_bench.engine.preflight import check_needs
from tta_bench.errors import BenchError, UsageError
from tta_bench.evaluation.plan import choose_methods
from tta_bench.model.positions import check_positions

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.speed.plan import SpeedPlan

_LAST_LAYERS = 4


def chosen_methods(
    asked: list[str] | None, model: LanguageModel, plan: SpeedPlan
) -> list[MethodChoice]:
    """The methods that are asked for, or those of `default_methods` that run on this model.

    Raises:
        BenchError: the model cannot read a chunk at once, or lacks what a method needs that was
            asked for.
    """
    check_positions(model, plan.chunk, "a chunk holds", "lower --chunk")
    choices = choose_methods(asked or default_methods(model))
    if not asked:
        return [choice for choice in choices if _runs(choice, model, plan)]
    for choice in choices:
        check_needs(choice, model, plan.shape, plan.tokens)
    return choices


def _runs(choice: MethodChoice, model: LanguageModel, plan: SpeedPlan) -> bool:
    try:
        check_needs(choice, model, plan.shape, plan.tokens)
    except BenchError:
        return False
    return True


def default_methods(model: LanguageModel) -> list[str]:
    """The methods measured by default: one of each kind, and subsets of dynamic evaluation.

    `fwl` where weights for this model come with the bench, else its untrained form.
    """
    last = min(_LAST_LAYERS, model.num_layers)
    return [
        "none",
        "fwl" if _has_weights("fwl", model) else "fwl-untrained",
        "neural-cache",
        "dynamic-eval:optimizer=sgd",
        "dynamic-eval",
        "dynamic-eval:subset=mlp",
        f"dynamic-eval:subset=last-{last}",
        "dynamic-eval:subset=lora",
    ]


def _has_weights(name: str, model: LanguageModel) -> bool:
    method = load(name)
    try:
        return bool(method.artifacts(method.Params(), model))
    except UsageError:
        return False
