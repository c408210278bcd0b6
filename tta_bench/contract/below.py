"""What a method stands on: the bare model, or another method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tta_bench.model.scores import Scores, as_scores

if TYPE_CHECKING:
    from torch import Tensor

    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window


class Standing(Protocol):
    """What the method above sees of the one below; see `Part`."""

    def score(self, window: Window) -> Scores | Tensor: ...
    def provide(self, window: Window) -> Window: ...
    def provided(self, shape: StepShape) -> StepShape: ...
    def beside(self, shape: StepShape) -> float: ...
    def flops(self, shape: StepShape) -> float | None: ...
    def invisible_flops(self, shape: StepShape) -> float: ...


@dataclass(frozen=True)
class Below:
    """The model, or a method on it, as the method above sees it.

    Heads and output methods ask for `score`, parameter methods for `provide`.
    """

    model: LanguageModel
    method: Standing | None = None

    def score(self, window: Window) -> Scores:
        """Its distributions for the chunk; their `hidden` are the states they were computed from.

        Asked once a step: a method below may remember what it scored.
        """
        if self.method is None:
            return self.model.logits(window)
        shape = (window.lanes, window.chunk_size, self.model.vocab_size)
        return as_scores(self.method.score(window), shape)

    def provide(self, window: Window) -> Window:
        """What the model is to read for this window: that of a context method below."""
        return window if self.method is None else self.method.provide(window)

    def provided(self, shape: StepShape) -> StepShape:
        """The shape of what `provide` returns."""
        return shape if self.method is None else self.method.provided(shape)

    def beside(self, shape: StepShape) -> float:
        """Its FLOPs in one step beside reading what it provides, such as writing a memory."""
        return 0.0 if self.method is None else self.method.beside(shape)

    def flops(self, shape: StepShape, own: float = 0.0) -> float | None:
        """Its FLOPs in one step, plus `own` of the method above; None where it has no formula."""
        if self.method is None:
            from tta_bench.cost.model_flops import ModelCost

            return ModelCost(self.model).forward(shape) + own
        below = self.method.flops(shape)
        return None if below is None else below + own

    def invisible_flops(self, shape: StepShape) -> float:
        """Its FLOPs that PyTorch's counter cannot see."""
        return 0.0 if self.method is None else self.method.invisible_flops(shape)
