"""`ttt-e2e`: MLPs of the last blocks step on every chunk, meta-trained to (arXiv 2512.23675).

Each of the last blocks has a second MLP before its own, P(x) = rms(SwiGLU(rms(x))), x <- x + P(x).
After a chunk of C tokens all of their matrices W take one step,

    W <- W - rate g min(1, 1 / |g|),    g = d/dW (1/C) sum_t NLL_t

with |g| the norm over the matrices of all of these blocks. W_0 is a slow weight and so are the
norms. They are trained for the losses of all chunks as they are measured, before each step,
through the steps of a segment (gradients of gradients).

Controls: `step=0`, the same weights without steps; weights of `fast=no`, prime MLPs that were
trained as plain slow weights; and those with `step=1`, which step although nothing prepared them
for it (what the paper calls naive).

Departures: the body is pretrained and frozen unless the recipe says otherwise, so that P is added
to a model whose MLPs keep their width (the authors narrow them and train all from fresh weights),
and begins as nothing: the gain of its second norm is zero. That takes the place of their warm-up of
the rate from 0.1. Training cuts the graph at the edges of segments; theirs goes through a whole
sequence. Tokens of the context are read again with what is learned so far, and the gradient passes
through their keys and values; with a carried cache these are constants, made by the weights of
their time, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tta_bench import LanguageModel, Needs, StepShape, Window, register
from tta_bench.heads import BodyModule, TrainedBody, TrainedMethod
from tta_bench_methods.parameter.ttt_e2e.layers import PrimeMLPs
from tta_bench_methods.parameter.ttt_e2e.places import norms_of_mlps
from tta_bench_methods.parameter.ttt_e2e.prime import PrimeOptions


@register("ttt-e2e")
class EndToEnd(TrainedBody):
    """TTT-E2E: meta-trained MLPs of the last blocks step on every chunk (Tandon et al. 2025)."""

    gradients = True
    graphs = True
    learns_from_losses = True
    Slow = PrimeOptions
    weights_folder = Path(__file__).parents[2] / "weights"
    module: PrimeMLPs

    @dataclass
    class Params(TrainedMethod.Params):
        """What is loaded, and how far it steps."""

        step: float | None = field(
            default=None,
            metadata={
                "help": "factor on the rate; 0: no steps; none: 1, and 0 for weights of fast=no"
            },
        )

        def __post_init__(self) -> None:
            if self.step is not None and self.step < 0:
                raise ValueError("step must be at least 0.")

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: Any) -> PrimeMLPs:
        return PrimeMLPs(model, slow)

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        norms_of_mlps(model)
        return super().needs(params, model, step)

    def prepare(self) -> None:
        self.model.require_gradients()
        super().prepare()

    def use(self, module: BodyModule) -> None:
        assert isinstance(module, PrimeMLPs)
        if self.params.step is not None:
            module.rate = module.options.rate * self.params.step
        self.gradients = module.rate > 0  # type: ignore[misc]
        self._of_body = self.cost  # of the body as it was: it is asked for gradients of its own
        super().use(module)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        (leaves, _), self._memo = self._memo, None
        if leaves:
            for name, value in self.module.stepped(leaves, nll, window).items():
                self.state[name].copy_(value)

    def flops(self, shape: StepShape) -> float:
        read = self.below.provided(shape)
        flops = self._of_body.forward(read) + self.module.flops(read) + self.below.beside(shape)
        if self.module.rate:
            # All that the lowest prime MLP moves needs a gradient, as the gain behind it would.
            flops += self._of_body.backward(read, [self.module.lowest_gain])
        return flops
