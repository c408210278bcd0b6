"""`fwl-untrained`: Fast Weight Layers with slow weights set by hand (Clark et al. 2022).

A small block reads the body's output h_t and corrects it before the unembedding:

    y_t = h_t + alpha LN(W2 relu(W1 x_t + b1)^2 + b2) + beta,    x_t = h_t at unit scale

The slow weights are not learned. W2, b2 and beta are zero, so that a fresh block adds nothing, and
W2 alone is fast (while W2 = 0 the gradients of W1 and b1 vanish). What remains is dynamic
evaluation of one linear layer on fixed features of h, in closed form:

- x_t is the signed square root of h_t at unit RMS: hidden states of language models have a few
  huge dimensions, which would otherwise make all keys alike.
- W1 is Gaussian and b1 a negative threshold, so that about one feature in 44 is active and keys of
  unlike states hardly overlap. Both are scaled so that a key has unit length on average.
- LN has eps = 1, alpha is small. A small sum of writes passes unchanged; a large one, which every
  long stream comes to since nothing is forgotten, is held to a length that moves a token's logit
  by at most about `reach`. So the row cannot diverge, and hardly depends on `step`.

Units are logits of the model at hand (the scale of its unembedding is measured once), so that the
defaults carry over between models. This is a control for trained slow weights, not the paper's row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from tta_bench import LanguageModel, register
from tta_bench.heads import HeadMethod
from tta_bench_methods.head.fwl.head import NORMALISER, FastWeightHead, FastWeightOptions
from tta_bench_methods.head.fwl.layer import FastWeightLayer

THRESHOLD = 2.0
"""A feature is active where its standard normal projection of x exceeds this."""

PROBES = 64
"""Random vectors from which the scale of the unembedding is measured."""


@register("fwl-untrained")
class UntrainedFastWeights(HeadMethod):
    """Fast weight layers with slow weights set by hand, a control (Clark et al. 2022)."""

    graphs = True

    @dataclass
    class Params:
        """Hyper-parameters of the untrained control."""

        step: float = field(
            default=1.0, metadata={"help": "logits a missed label gains for where its key recurs"}
        )
        reach: float = field(
            default=0.7, metadata={"help": "about the most, in logits, that the block can move one"}
        )
        width: int = field(default=4, metadata={"help": "features, in multiples of the model's d"})
        seed: int = field(default=0, metadata={"help": "of the random features"})

        def __post_init__(self) -> None:
            if self.step < 0:
                raise ValueError("step must be at least 0.")
            if self.reach <= 0:
                raise ValueError("reach must be above 0; step=0 switches the method off.")
            if self.width < 1:
                raise ValueError("width must be at least 1.")

    def prepare(self) -> None:
        self.use(untrained_head(self.model, self.params))


def untrained_head(model: LanguageModel, params: UntrainedFastWeights.Params) -> FastWeightHead:
    """The block with the slow weights described above."""
    d, m = model.hidden_size, params.width * model.hidden_size
    scale = unembedding_scale(model)
    # By y = h + alpha LN(z2), one write moves its label's logit by eta (alpha scale)^2 / NORMALISER
    # on a unit key, and LN's largest output, of length sqrt(d), by alpha scale sqrt(d).
    alpha = params.reach / (scale * math.sqrt(d))
    eta = params.step * NORMALISER / (alpha * scale) ** 2
    head = FastWeightHead(d, FastWeightOptions(width=params.width))
    head.layer = layer = FastWeightLayer((d, m, d), ("w2",), step=eta, eps=1.0)
    random = torch.randn(d, m, generator=torch.Generator().manual_seed(params.seed))
    unit_key = (m * _fourth_moment(THRESHOLD)) ** -0.25  # a1 grows with the square of z1
    with torch.no_grad():
        layer.w1.copy_(random * unit_key / math.sqrt(d))
        layer.b1.fill_(-THRESHOLD * unit_key)
        layer.w2.zero_()
        layer.alpha.fill_(alpha)
    return head


def unembedding_scale(model: LanguageModel) -> float:
    """Root mean square length of a row of the unembedding, whatever scaling it applies."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, model.hidden_size, generator=generator)
    with torch.no_grad():
        logits = model.unembed(probes.to(model.device, model.dtype)).float()
        bias = model.unembed(torch.zeros_like(probes[:1]).to(model.device, model.dtype)).float()
    return float((logits - bias).square().mean().sqrt())


def _fourth_moment(threshold: float) -> float:
    """E[relu(z - threshold)^4] of a standard normal z."""
    t = threshold
    tail = math.erfc(t / math.sqrt(2)) / 2
    density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    return (t**4 + 6 * t**2 + 3) * tail - (t**3 + 5 * t) * density
