"""The prime MLP of one block: a SwiGLU between two norms, whose matrices are fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.heads import Patch, SlowOptions, State

EPSILON = 1e-6
"""Beside the mean square that a norm divides by, as in the authors' code."""

SPREAD = 0.02
"""Standard deviation of matrices at the start of training."""

MATRICES = ("gate", "up", "down")
"""What changes while a document is read; the norms around them stay."""


@dataclass
class PrimeOptions(SlowOptions):
    """Which blocks have a prime MLP, how wide it is, and how it steps."""

    blocks: int = field(default=0, metadata={"help": "of the last N blocks; 0: of a quarter"})
    width: int = field(default=0, metadata={"help": "hidden units; 0: as many as an MLP's"})
    rate: float = field(default=1.0, metadata={"help": "size of a step, of a gradient of norm 1"})

    def __post_init__(self) -> None:
        if self.blocks < 0 or self.width < 0:
            raise ValueError("blocks and width must be at least 0.")
        if not self.rate > 0:
            raise ValueError("rate must be above 0; fast=no makes the control that does not step.")


def prime_mlp(x: Tensor, weights: State, before: Tensor, after: Tensor) -> Tensor:
    """rms(W_down (silu(W_gate n) * W_up n)) * after, with n = rms(x) * before: [B, L, d].

    Args:
        x: [B, L, d].
        weights: `gate` and `up` [..., m, d], `down` [..., d, m], for all lanes or for each its own.
        before: [d], the gain of the first norm.
        after: [d], that of the second.
    """
    n = _rms(x) * before
    units = F.silu(n @ weights["gate"].mT) * (n @ weights["up"].mT)
    return _rms(units @ weights["down"].mT) * after


def _rms(x: Tensor) -> Tensor:
    """x over its root mean square; written out, since training takes second derivatives."""
    return x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()


class PrimeMLP(Patch):
    """x <- x + P(x) before a norm and what reads it; the state is how far P's matrices have moved.

    As a patch of that norm it gives norm(x + P(x)), and leaves P(x) in `added`, for the block to
    add to what it returns. Slow weights are the matrices W_0 that every document begins with, and
    the gains of P's norms. The second of those begins at zero: P(x) is nothing then, and so are the
    gradients of its matrices, so that what was never trained stays the model bit for bit however
    long it adapts.

    The state is W - W_0, which is zero at the start. Where training cuts its graph the distance is
    what is held constant: every segment teaches W_0, not only those that begin a document.

    Args:
        width: d, of the block.
        inner: m, hidden units.
    """

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.before = nn.Parameter(torch.ones(width))
        self.gate = nn.Parameter(SPREAD * torch.randn(inner, width))
        self.up = nn.Parameter(SPREAD * torch.randn(inner, width))
        self.down = nn.Parameter(SPREAD * torch.randn(width, inner))
        self.after = nn.Parameter(torch.zeros(width))
        self.norm: Any = None  # the norm's own function, once it is attached
        self.added: Tensor | None = None

    def fresh_state(self, lanes: int) -> State:
        return {name: torch.zeros_like(own).repeat(lanes, 1, 1) for name, own in self._matrices()}

    def forward(
        self, inputs: Tensor, output: Tensor, mask: Tensor, state: State
    ) -> tuple[Tensor, State]:
        weights = {name: own + state[name] if state else own for name, own in self._matrices()}
        x = inputs.to(self.before.dtype)
        self.added = prime_mlp(x, weights, self.before, self.after).to(inputs.dtype)
        return self.norm(inputs + self.added), {}

    def take(self) -> Tensor | None:
        """What was added in the block that is being read, once; None where it rests."""
        added, self.added = self.added, None
        return added

    def flops(self, positions: int, adapts: bool, lowest: bool) -> float:
        """FLOPs of reading so many positions of one lane, and of the gradient of its matrices.

        Args:
            positions: L.
            adapts: whether a gradient is taken.
            lowest: whether nothing below it needs one.
        """
        product = 2.0 * positions * self.gate.numel()
        through = 1 if lowest else 3  # products that carry the gradient on
        return product * (3 + (3 + through if adapts else 0))

    def _matrices(self) -> list[tuple[str, Tensor]]:
        return [(name, getattr(self, name)) for name in MATRICES]
