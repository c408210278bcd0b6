"""Mini-batches one after another: each starts from the weights that the one before ended with.

    W_t = W_start - tau_t * sum over s of eta_s grad loss_s(W_start),   s in t's mini-batch
    next W_start = W_t at the last position of the mini-batch

On the way from one mini-batch to the next the weights may fade towards the initial ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tta_bench_methods.head.block.minibatch import Grid
from tta_bench_methods.head.ttt.inner_loss import Norm
from tta_bench_methods.head.ttt.minibatch import InnerModel, Kernels, MiniBatch


class Positions(NamedTuple):
    """T positions of B lanes, for H heads."""

    queries: Tensor  # [B, T, H, w]
    keys: Tensor  # [B, T, H, w]
    targets: Tensor  # [B, T, H, w]
    rates: Tensor  # eta [B, T, H]
    taus: Tensor  # [B, T, H]


class Fading(NamedTuple):
    """Forgetting: what is kept of the learned part of the weights, a mini-batch."""

    initial: Kernels  # [H, in, out], which the weights fade to
    kept: Tensor  # [H], 0 to 1


class Scan:
    """Reads positions with an inner model and the norm behind it, which has an axis of heads."""

    def __init__(self, model: InnerModel):
        self.model = model
        self.step = self._step

    def compile(self) -> None:
        """Compiles a mini-batch, and not the loop over them."""
        self.step = torch.compile(self._step, dynamic=False)

    def __call__(
        self,
        norm: Norm,
        positions: Positions,
        grid: Grid,
        newest: int,
        kernels: Kernels,
        sums: Kernels,
        fading: Fading | None = None,
    ) -> tuple[Tensor, Kernels, Kernels]:
        """f(q_t; W_t) of all positions, and the state after them.

        Args:
            norm: behind f, with a leading axis of heads.
            positions: in order.
            grid: how they are divided into mini-batches.
            newest: t reads what is written up to t + newest in its mini-batch: 0, or -1 where the
                target of t is not known at t.
            kernels: [B, H, in, out], at the start of the mini-batch that is open.
            sums: likewise, of eta_s times the gradients of its earlier positions.
            fading: None: nothing is forgotten.

        Returns:
            Outputs [B, T, H, w]; kernels and sums after the last written position.
        """
        laid = Positions(*(_by_batch(grid.lay(part)) for part in positions))  # [n, B, H, m, ...]
        written = laid._replace(rates=laid.rates * _by_batch(grid.there[..., None]))
        batches = zip(*(part.unbind() for part in MiniBatch.of(*written, newest)), strict=True)
        complete = grid.complete.mT.clone(memory_format=torch.contiguous_format)
        complete = complete[..., None, None, None]
        last = laid.taus[..., -1, None, None]
        pieces = []
        for j, batch in enumerate(batches):
            # An open mini-batch is the first: the sums of all others begin with them.
            read, kernels, sums = self.step(
                norm, MiniBatch(*batch), last[j], complete[j], kernels, sums, fading, j == 0
            )
            pieces.append(read)
        reads = torch.stack(pieces).transpose(0, 1).transpose(2, 3)
        return grid.lift(reads), kernels, sums

    def _step(
        self,
        norm: Norm,
        batch: MiniBatch,
        last: Tensor,
        complete: Tensor,
        kernels: Kernels,
        sums: Kernels,
        fading: Fading | None,
        opened: bool,
    ) -> tuple[Tensor, Kernels, Kernels]:
        """A mini-batch; where it is complete the next one has been begun.

        Args:
            last: [B, H, 1, 1], tau at the last place.
            complete: [B, 1, 1, 1] bool.
            opened: whether earlier positions may have left sums.
        """
        read, steps = self.model.minibatch(kernels, batch, norm, sums if opened else None)
        sums = tuple(held + step for held, step in zip(sums, steps, strict=True))
        move = last * complete
        kernels = tuple(kernel - move * held for kernel, held in zip(kernels, sums, strict=True))
        sums = tuple(held.masked_fill(complete, 0.0) for held in sums)
        if fading is not None:
            lost = complete * (1 - fading.kept[:, None, None])
            kernels = tuple(
                kernel + lost * (begin - kernel)
                for kernel, begin in zip(kernels, fading.initial, strict=True)
            )
        return read, kernels, sums


def _by_batch(laid: Tensor) -> Tensor:
    """[B, n, m, H, ...] as [n, B, H, m, ...]: whatever n, each mini-batch lies alike in memory.

    So one compiled graph does for chunks of any length. Not `contiguous`, which leaves strides of
    dimensions of size 1 as they are.
    """
    return laid.transpose(0, 1).transpose(2, 3).clone(memory_format=torch.contiguous_format)
