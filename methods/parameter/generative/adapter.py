"""One output projection with low-rank weights that chunks have written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.heads import Patch, SlowOptions, State
from tta_bench_methods.parameter.generative.directions import (
    EPSILON,
    equalised,
    equalised_flops,
    of_unit_size,
)


@dataclass
class AdapterOptions(SlowOptions):
    """How the adapters are built."""

    rank: int = field(default=64, metadata={"help": "rows and columns of what is written"})
    directions: int = field(
        default=16, metadata={"help": "singular directions kept; from rank on all, exactly"}
    )
    normalise: Literal["svd", "frobenius", "spectral"] = field(
        default="svd", metadata={"help": "all directions to one, or what was written by its norm"}
    )
    alpha: float = field(default=16.0, metadata={"help": "times the correction, over rank"})

    def __post_init__(self) -> None:
        if self.rank < 1 or self.directions < 1:
            raise ValueError("rank and directions must be at least 1.")


class Adapter(Patch):
    """y = W x + (alpha / r) B S^T A1 x, with S the directions of what finished chunks wrote.

        n = gamma h / RMS(h)      M <- M + sum over the chunk of (A2 n) (A3 n)^T

    h is the input of the block that the projection belongs to, before the block's norm. A1, A2 and
    A3 are [r, ...], B [out, r] begins as zeros.

    Without `fast` M is what unit vectors would have written in place of the text,
    A2 diag(gamma^2) A3^T: low-rank weights of the same size from the same parameters, which stay.

    Args:
        width: of h.
        inner: of what the projection is given.
        outer: of what it gives.
        slow: rank r, directions, normalisation and alpha.
    """

    draw: Tensor | None

    def __init__(self, width: int, inner: int, outer: int, slow: AdapterOptions):
        super().__init__()
        self.adapts = slow.fast
        self.scale = slow.alpha / slow.rank
        self.gamma = nn.Parameter(torch.ones(width))
        self.key = nn.Parameter(_kaiming(slow.rank, width))
        self.value = nn.Parameter(_kaiming(slow.rank, width))
        self.down = nn.Parameter(_kaiming(slow.rank, inner))
        self.up = nn.Parameter(torch.zeros(outer, slow.rank))
        self.block_input: Tensor | None = None
        self.normalise: Literal["svd", "frobenius", "spectral"] = slow.normalise
        # No parameter: the same in every adapter and at every call.
        draw = torch.randn(slow.rank, slow.directions, generator=torch.Generator().manual_seed(0))
        few = slow.directions < slow.rank
        self.register_buffer("draw", draw if few else None, persistent=False)

    def fresh_state(self, lanes: int) -> State:
        rank = len(self.key)
        return {"M": self.key.new_zeros(lanes, rank, rank)} if self.adapts else {}

    def forward(
        self, inputs: Tensor, output: Tensor, mask: Tensor, state: State
    ) -> tuple[Tensor, State]:
        block_input, self.block_input = self.block_input, None
        assert block_input is not None
        dtype = self.key.dtype
        with torch.autocast(inputs.device.type, enabled=False):
            if not self.adapts:
                change = self.read(inputs.to(dtype), self.of_unit_vectors())
                return output + change.to(output.dtype), {}
            change = self.read(inputs.to(dtype), state["M"])
            after = state["M"] + self.written(block_input.to(dtype), mask)
            return output + change.to(output.dtype), {"M": after}

    def read(self, inputs: Tensor, products: Tensor) -> Tensor:
        """What is added to the projection's output, [B, L, out].

        Args:
            inputs: [B, L, in].
            products: M [B, r, r], or [r, r] for all lanes.
        """
        rows = inputs @ self.down.mT @ self.normalised(products)
        return self.scale * (rows @ self.up.mT)

    def normalised(self, products: Tensor) -> Tensor:
        """S of M, of any shape [..., r, r]."""
        if self.normalise == "svd":
            return equalised(products, self.draw)
        return of_unit_size(products, self.normalise)

    def written(self, block_input: Tensor, mask: Tensor) -> Tensor:
        """What positions [B, L, width] add to M: [B, r, r], of those with a mask [B, L] alone."""
        normed = F.rms_norm(block_input, block_input.shape[-1:], self.gamma, EPSILON)
        keys = (normed @ self.key.mT) * mask[..., None]
        return keys.mT @ (normed @ self.value.mT)

    def of_unit_vectors(self) -> Tensor:
        """M [r, r] of the control; its directions do not depend on the length of what is read."""
        return (self.key * self.gamma) @ (self.value * self.gamma).mT

    def flops(self, positions: int) -> float:
        """FLOPs of a window of one lane: all of them."""
        rank = len(self.key)
        maps = self.down.numel() + self.up.numel() + rank**2
        if not self.adapts:
            return 2.0 * (positions * maps + self.key.numel() * rank) + self._normalising()
        maps += self.key.numel() + self.value.numel() + rank**2
        return 2.0 * positions * maps + self._normalising()

    def invisible_flops(self) -> float:
        """Those of a decomposition, which PyTorch's counter cannot see."""
        return self._normalising() if self.normalise == "spectral" else 0.0

    def _normalising(self) -> float:
        rank = len(self.key)
        if self.normalise == "frobenius":
            return 0.0
        if self.normalise == "spectral":
            return 8.0 / 3.0 * rank**3  # singular values alone (Golub & Van Loan 2013)
        return equalised_flops(rank, rank, None if self.draw is None else self.draw.shape[1])


def _kaiming(rows: int, columns: int) -> Tensor:
    """[rows, columns], as the authors initialise it."""
    return nn.init.kaiming_normal_(torch.empty(rows, columns), a=math.sqrt(5))
