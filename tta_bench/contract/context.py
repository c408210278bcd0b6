"""`ContextMethod`: a method that chooses what the frozen model reads."""

from __future__ import annotations

from typing import ClassVar

from tta_bench.contract.method import Method
from tta_bench.errors import MethodError
from tta_bench.model.scores import Scores
from tta_bench.model.step_shape import StepShape
from tta_bench.model.window import Window


class ContextMethod(Method):
    """Base class of context methods. A subclass defines `provide` and `provided`.

    A parameter method that stands on it reads the same windows through weights of its own.
    """

    family: ClassVar[str] = "context"
    learns_from_losses: ClassVar[bool] = False

    def provide(self, window: Window) -> Window:
        """What the model reads in this step: the same scored chunk, with other context."""
        raise MethodError(f"{type(self).__name__} does not define provide(window).")

    def provided(self, shape: StepShape) -> StepShape:
        """The shape of what `provide` returns for a step of this shape."""
        raise MethodError(f"{type(self).__name__} does not define provided(shape).")

    def score(self, window: Window) -> Scores:
        return self.model.logits(self.provide(window))

    def flops(self, shape: StepShape) -> float | None:
        return self.cost.forward(self.provided(shape))
