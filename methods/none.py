"""`none`: the model as it is. Every other method is compared with it on the same path."""

from __future__ import annotations

from tta_bench import LanguageModel, Method, Scores, StepShape, Window, register


@register("none")
class NoAdaptation(Method):
    """No adaptation: the frozen model, read on the same path as every method."""

    family = "none"
    graphs = True

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: object) -> None:
        return None

    def score(self, window: Window) -> Scores:
        return self.model.logits(window)

    def flops(self, shape: StepShape) -> float:
        return self.cost.forward(shape)
