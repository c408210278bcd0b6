"""TTT-MLP: an inner model of two layers (Sun et al. 2024, arXiv 2407.04620).

    f(k) = gelu(k W1 + b1) W2 + b2,   hidden width 4 w

With X = gelu(k W1 + b1), the gradients at the outputs of the layers are

    G2 = dLoss / df,    G1 = (G2 W2^T) gelu'(k W1 + b1)

and position t reads, with a query of the second layer that has the steps on the first,

    Z_t = q_t W1 + b1 - sum over s of tau_t eta_s (q_t . k_s + 1) G1_s
    f(q_t; W_t) = gelu(Z_t) W2 + b2 - sum over s of tau_t eta_s (gelu(Z_t) . X_s + 1) G2_s
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench_methods.head.ttt.inner_loss import Norm
from tta_bench_methods.head.ttt.minibatch import (
    InnerModel,
    Kernels,
    MiniBatch,
    first_flops,
    initial_kernel,
    later_flops,
    with_one,
)

EXPANSION = 4
"""Hidden units, in multiples of the width of a head."""


class MLP(InnerModel):
    """Two layers: kernels [..., w + 1, 4 w] and [..., 4 w + 1, w]."""

    def begin(self, heads: int, width: int) -> Kernels:
        hidden = EXPANSION * width
        return initial_kernel(heads, width, hidden), initial_kernel(heads, hidden, width)

    def outputs(self, kernels: Kernels, queries: Tensor) -> Tensor:
        first, second = kernels
        return with_one(gelu(with_one(queries) @ first)) @ second

    def minibatch(
        self, kernels: Kernels, batch: MiniBatch, norm: Norm, opened: Kernels | None
    ) -> tuple[Tensor, Kernels]:
        (first, second), (before, behind) = kernels, opened or (None, None)
        z, read = batch.first_layer(first)
        hidden = with_one(gelu(z))
        outer = norm.loss_gradient(hidden @ second, batch.targets)
        inner = outer @ second[..., :-1, :].mT * gelu_slope(z)
        read, steps = batch.first_steps(read, inner, before)
        read, later = batch.later_steps(with_one(gelu(read)), hidden, second, outer, behind)
        return read, (steps, later)

    def flops(self, width: int, positions: int, opened: bool) -> float:
        hidden = EXPANSION * width
        first = first_flops(positions, width + 1, hidden, opened)
        return first + later_flops(positions, hidden + 1, width, opened)

    def read_flops(self, width: int) -> float:
        hidden = EXPANSION * width
        return 2.0 * ((width + 1) * hidden + (hidden + 1) * width)


def gelu(z: Tensor) -> Tensor:
    """GELU in its tanh form."""
    return F.gelu(z, approximate="tanh")


def gelu_slope(z: Tensor) -> Tensor:
    """Its derivative, with the constants as the authors round them.

    sqrt(2 / pi) and 3 * 0.044715 sqrt(2 / pi) to eight and ten digits: it is off by 1e-9, which a
    comparison with their numbers sees.
    """
    square = z.square()
    tanh = torch.tanh(0.79788456 * z * (1 + 0.044715 * square))
    inner = 0.79788456 + 0.1070322243 * square
    return 0.5 * z * (1 - tanh.square()) * inner + 0.5 * (1 + tanh)
