"""`knn-adapter`: kNN-LM that learned when to listen, after kNN-Adapter (Huang et al. 2023).

    p(y) = (1 - l_t) p_below(y) + l_t sum over near i with y_i = y of softmax_i(-d_i(t) / tau_t)

with pairs and distances as in `knn-lm`, and (l_t, tau_t) = gate(h_t, the nearest distances, how
many pairs there are). The gate is trained for the loss of this mixture on documents whose store is
what lies before in them, so that it never sees a neighbour that is the token itself.

The paper (arXiv 2302.10879) learns both numbers from context and neighbours; its code and the net
were not found, so this is ours, after it. The weights are those of He et al. (2021).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tta_bench import LanguageModel, Needs, Scores, StepShape, Window, register
from tta_bench.heads import TrainedMethod
from tta_bench_methods.output.knn_adapter.module import AdaptedNeighbours, GateOptions


@register("knn-adapter")
class AdaptedNearestNeighbours(TrainedMethod):
    """kNN-LM with learned weight and temperature, after kNN-Adapter (Huang et al. 2023)."""

    family = "output"
    learns_from_losses = False
    Slow = GateOptions
    weights_folder = Path(__file__).parents[2] / "weights"

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: GateOptions) -> AdaptedNeighbours:
        return AdaptedNeighbours(model.hidden_size, slow)

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        return Needs(hidden=True)

    def use(self, module: AdaptedNeighbours) -> None:
        """Takes the gate into service: float32, on the model's device, without gradients."""
        self.module = module.to(self.model.device).float().requires_grad_(False)

    def init_state(self) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.module.fresh_state(1).items()}

    def score(self, window: Window) -> Scores:
        found, self._keys = self.module.mix(self.below.score(window), window, self.state)
        return found

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        keys = self._keys
        del self._keys  # a chunk's memory must not lie beside that of the next
        for name, value in self.module.stored(keys, window, targets, self.state).items():
            self.state[name].copy_(value)

    def flops(self, shape: StepShape) -> float | None:
        pairs = self.module.options.window + shape.scored
        gate = sum(value.numel() for value in self.module.gate.parameters() if value.dim() > 1)
        own = 2 * shape.scored * (self.model.hidden_size * pairs + gate)
        return self.below.flops(shape, own)
