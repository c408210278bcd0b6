"""TTT-Linear: an inner model of one layer (Sun et al. 2024, arXiv 2407.04620).

f(k) = k W + b,   G = dLoss / df,   gradient at W: k^T G,  at b: G
f(q_t; W_t) = q_t W + b - sum over s of tau_t eta_s (q_t . k_s + 1) G_s
"""

from __future__ import annotations

from torch import Tensor

from tta_bench_methods.head.ttt.inner_loss import Norm
from tta_bench_methods.head.ttt.minibatch import (
    InnerModel,
    Kernels,
    MiniBatch,
    first_flops,
    initial_kernel,
    with_one,
)


class Linear(InnerModel):
    """One layer: a kernel [..., w + 1, w]."""

    def begin(self, heads: int, width: int) -> Kernels:
        return (initial_kernel(heads, width, width),)

    def outputs(self, kernels: Kernels, queries: Tensor) -> Tensor:
        return with_one(queries) @ kernels[0]

    def minibatch(
        self, kernels: Kernels, batch: MiniBatch, norm: Norm, opened: Kernels | None
    ) -> tuple[Tensor, Kernels]:
        z, read = batch.first_layer(kernels[0])
        gradients = norm.loss_gradient(z, batch.targets)
        read, steps = batch.first_steps(read, gradients, None if opened is None else opened[0])
        return read, (steps,)

    def flops(self, width: int, positions: int, opened: bool) -> float:
        return first_flops(positions, width + 1, width, opened)

    def read_flops(self, width: int) -> float:
        return 2.0 * (width + 1) * width
