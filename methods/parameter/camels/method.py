"""`camels`: dynamic evaluation with learned token weights (Hu et al. 2023, arXiv 2305.15076).

After each chunk the adapted weights theta of a lane take a step

    theta <- theta - lr d/dtheta (1/C) sum_t w_t NLL_t,   w_t = softplus_3(MLP(h_t, e(y_t), NLL_t))

with h_t the state that predicted the token y_t, e its embedding, and w of mean one over the chunk.
The MLP is trained through these steps, for the losses of the chunks that follow in the document
(gradients of gradients; a training segment holds several steps, and they end at its edge).

Departures: the paper's objective is the answers to questions about a text, with a penalty where the
model moves on other text; ours is the rest of the text alone. The authors' net reads a token with a
second language model (distilgpt2), which is trained; ours reads what scoring has already computed,
and takes it as constant. Their weights have no fixed mean (`normalise=no`). They train through SGD
and use Adam; here both are SGD unless `optimizer` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tta_bench import LanguageModel, Needs, Scores, StepShape, Window, register
from tta_bench.heads import TrainedMethod
from tta_bench_methods.parameter.camels.training import WeigherOptions, WeightedSteps
from tta_bench_methods.parameter.dynamic_eval.method import DynamicEvaluation
from tta_bench_methods.parameter.dynamic_eval.options import Options


@register("camels")
class Camels(TrainedMethod, DynamicEvaluation):
    """CaMeLS: dynamic evaluation with learned token weights (Hu et al. 2023)."""

    Slow = WeigherOptions
    weights_folder = Path(__file__).parents[2] / "weights"
    off: ClassVar[dict[str, object]] = {"lr": 0}

    @dataclass
    class Params(TrainedMethod.Params):
        """What is loaded, and how it steps."""

        tokens: Literal["learned", "shuffled"] = field(
            default="learned",
            metadata={"help": "shuffled: a control, the weights of a chunk at other tokens of it"},
        )
        optimizer: Literal["sgd", "adam"] = field(default="sgd", metadata={"help": "update rule"})
        lr: float | None = field(
            default=None,
            metadata={"help": "learning rate; none: of sgd the one trained with, adam 1e-4"},
        )
        clip: float | None = field(
            default=None, metadata={"help": "largest gradient norm of a step"}
        )

        def __post_init__(self) -> None:
            Options(lr=self.lr)  # it says what is wrong with it

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: WeigherOptions) -> WeightedSteps:
        return WeightedSteps(model, slow)

    @classmethod
    def offline_datasets(cls, params: Any) -> list[str]:
        return []

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        return Needs(hidden=True)

    def prepare(self) -> None:
        TrainedMethod.prepare(self)
        chosen, trained = self.params, self.module.options
        self.shuffled = chosen.tokens == "shuffled"
        lr = trained.lr if chosen.lr is None and chosen.optimizer == "sgd" else chosen.lr
        # What dynamic evaluation reads from here on.
        self.params = Options(chosen.optimizer, lr, trained.subset, chosen.clip)
        DynamicEvaluation.prepare(self)

    def use(self, module: WeightedSteps) -> None:
        """Takes the net into service: float32, on the model's device, without gradients."""
        self.module = module.to(self.model.device, torch.float32).requires_grad_(False)

    def score(self, window: Window) -> Scores:
        scores = super().score(window)
        assert scores.hidden is not None
        self._hidden = scores.hidden.detach()
        return scores

    def _token_weights(self, window: Window, targets: Tensor, nll: Tensor) -> Tensor:
        weights = self.module.token_weights(self._hidden, targets, nll, window)
        del self._hidden
        return shuffled(weights, window.mask) if self.shuffled else weights

    def flops(self, shape: StepShape) -> float:
        net = self.module.weigher
        products = net.fc1.weight.numel() + net.fc2.weight.numel()
        scored = self.below.provided(shape).scored
        return DynamicEvaluation.flops(self, shape) + 2.0 * scored * products


def shuffled(weights: Tensor, mask: Tensor) -> Tensor:
    """The weights [B, C] of the scored tokens, each at another place, the same in every chunk.

    Places are sorted by a hash; `mask` is True at the first ones.
    """
    places = torch.arange(weights.shape[1], device=weights.device)
    hashed = (places + 1) * 2654435761 % 2**32
    hashed = (hashed ^ (hashed >> 15)) * 40503 % 2**32
    order = hashed.expand_as(weights).masked_fill(~mask, 2**32).argsort(dim=1, stable=True)
    return weights.gather(1, order)
