"""What a method needs, held against the model and the documents before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.contract.needs import Needs
from tta_bench.contract.stated import needs_of
from tta_bench.errors import BenchError, MethodError
from tta_bench.model.positions import check_positions

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.step_shape import StepShape


def check_needs(choice: MethodChoice, model: LanguageModel, step: StepShape, longest: int) -> None:
    """Raises the error that a method would end in on this model, while nothing is lost yet.

    Args:
        choice: the method.
        model: the model, or its shape.
        step: the widest step of the protocol.
        longest: the inputs that the longest document has, its prefix token included.

    Raises:
        UsageError: it reads more tokens at once than the model has positions, or refuses the model.
        ModelError: the model lacks what it reads.
        MethodError: its `needs` fails.
    """
    try:
        # First: a method that looks for its weights would miss them for another reason.
        if "parameter" in choice.cls.family.split("+"):
            model.require_weights()
        needs = _stated(choice, model, step)
        if needs.weights:
            model.require_weights()
        if needs.hidden:
            model.require_split()
    except BenchError as error:
        start, _, rest = str(error).partition(": ")
        # The spec has said what a sentence such as `subset=last-9: ...` begins with.
        said = rest if rest and start in choice.spec else error
        raise type(error)(f"{choice.spec}: {said}") from error
    tokens = min(needs.positions, longest)
    check_positions(model, tokens, f"{choice.spec} reads", "let it read fewer, or lower --chunk")


def _stated(choice: MethodChoice, model: LanguageModel, step: StepShape) -> Needs:
    try:
        needs = needs_of(choice.cls, choice.params, model, step)
    except BenchError:
        raise
    except Exception as error:  # a method is foreign code: it may raise anything
        raise MethodError(f"its needs() raised {type(error).__name__}: {error}.") from error
    if not isinstance(needs, Needs):
        raise MethodError(f"its needs() must return Needs, not {type(needs).__name__}.")
    return needs
