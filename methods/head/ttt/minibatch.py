"""A mini-batch in closed form: steps on all of its positions, without weights of their own.

With all gradients G_s at a layer's outputs taken at its start kernel W, and the layer's inputs
K_s, position t has the kernel W - tau_t sum over s of eta_s K_s^T G_s, and for its own input Q_t
the layer gives

    Q_t W - sum over s of tau_t eta_s (Q_t . K_s) G_s

over s <= t, or s < t where what is written carries the label of s. A bias is a kernel's last row,
whose inputs get a last entry of 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench_methods.head.ttt.inner_loss import Norm

Kernels = tuple[Tensor, ...]
"""The fast weights of an inner model: a kernel a layer, [..., in + 1, out]."""


class MiniBatch(NamedTuple):
    """m positions. What does not depend on the fast weights has been computed for many at once."""

    inputs: Tensor  # keys, and below them queries, with a last 1: [..., 2 m, w + 1]
    spread: Tensor  # of gradients: to the reads that lose them, and to the sum; [..., m + w + 1, m]
    targets: Tensor  # [..., m, w]
    rates: Tensor  # eta [..., m], of the position that writes; 0: it writes nothing
    taus: Tensor  # [..., m], of the position that reads
    coupling: Tensor  # [..., m, m]: tau_t eta_s where t reads s, or 0

    @classmethod
    def of(
        cls,
        queries: Tensor,
        keys: Tensor,
        targets: Tensor,
        rates: Tensor,
        taus: Tensor,
        newest: int,
    ) -> MiniBatch:
        """The mini-batch of queries, keys and targets [..., m, w].

        Args:
            newest: t reads what is written up to t + newest: 0, or -1.
        """
        queries, keys = with_one(queries), with_one(keys)
        coupling = (taus[..., :, None] * rates[..., None, :]).tril(newest)
        coupled = coupling * (queries @ keys.mT)
        spread = torch.cat([coupled, (keys * rates[..., None]).mT], dim=-2)
        inputs = torch.cat([keys, queries], dim=-2)
        return cls(inputs, spread, targets, rates, taus, coupling)

    def first_layer(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """K W and Q W, [..., m, out], in one product."""
        keys, queries = (self.inputs @ kernel).chunk(2, dim=-2)
        return keys, queries

    def first_steps(
        self, start: Tensor, gradients: Tensor, opened: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the first layer gives each position after its steps, and the sum of eta K^T G.

        Args:
            start: Q W [..., m, out].
            gradients: G [..., m, out].
            opened: the sum over positions of this mini-batch that came before these; or None.
        """
        sizes = [self.taus.shape[-1], self.inputs.shape[-1]]
        lost, steps = (self.spread @ gradients).split(sizes, dim=-2)
        queries = self.inputs[..., sizes[0] :, :]
        return self._less(start - lost, queries, opened), steps

    def later_steps(
        self,
        queries: Tensor,
        keys: Tensor,
        kernel: Tensor,
        gradients: Tensor,
        opened: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The same of a layer whose inputs depend on the fast weights.

        Args:
            queries: Q [..., m, in].
            keys: K [..., m, in].
            kernel: W [..., in, out].
            gradients: G [..., m, out].
            opened: as in `first_steps`.
        """
        lost = self.coupling * (queries @ keys.mT) @ gradients
        steps = (keys * self.rates[..., None]).mT @ gradients
        return self._less(queries @ kernel - lost, queries, opened), steps

    def _less(self, outputs: Tensor, queries: Tensor, opened: Tensor | None) -> Tensor:
        if opened is None:
            return outputs
        return outputs - self.taus[..., None] * (queries @ opened)


def first_flops(positions: int, inner: int, outer: int, opened: bool) -> float:
    """FLOPs of a first layer [inner, outer], its steps included."""
    products = (3 + opened) * inner * outer  # K W, Q W and the sums
    return 2.0 * positions * (products + positions * (inner + outer))


def later_flops(positions: int, inner: int, outer: int, opened: bool) -> float:
    """FLOPs of another layer: as of the first, and what its gradient says of its inputs."""
    return first_flops(positions, inner, outer, opened) + 2.0 * positions * (inner - 1) * outer


class InnerModel(ABC):
    """f, which is trained while it reads."""

    @abstractmethod
    def begin(self, heads: int, width: int) -> Kernels:
        """Slow initial kernels, with a leading axis of heads, as the authors draw them."""

    @abstractmethod
    def outputs(self, kernels: Kernels, queries: Tensor) -> Tensor:
        """f(q), [..., n, w]."""

    @abstractmethod
    def minibatch(
        self, kernels: Kernels, batch: MiniBatch, norm: Norm, opened: Kernels | None
    ) -> tuple[Tensor, Kernels]:
        """f(q_t; W_t) of every position, [..., m, w], and the sums of eta_s times the gradients.

        Args:
            kernels: at the start of the mini-batch.
            batch: the positions.
            norm: behind f.
            opened: the sums over positions of this mini-batch that came before; None: it is new.
        """

    @abstractmethod
    def flops(self, width: int, positions: int, opened: bool) -> float:
        """FLOPs of a mini-batch of one head; `opened`: some of its positions came before."""

    @abstractmethod
    def read_flops(self, width: int) -> float:
        """FLOPs of `outputs` for one position of one head."""


def with_one(inputs: Tensor) -> Tensor:
    """[..., n, w] with a last entry of 1, by which a kernel's bias is multiplied."""
    return F.pad(inputs, (0, 1), value=1.0)


def initial_kernel(heads: int, inner: int, outer: int) -> Tensor:
    """[heads, inner + 1, outer]: N(0, 0.02^2), and the bias 0."""
    kernel = torch.zeros(heads, inner + 1, outer)
    nn.init.normal_(kernel[:, :-1], std=0.02)
    return kernel
