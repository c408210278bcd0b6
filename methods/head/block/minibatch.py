"""Mini-batches of tokens in lanes that stand at different places of theirs.

A memory that steps once in m tokens keeps the mini-batch that is open in its state: what stood at
its start, a sum over its tokens so far, and how many they are. The next T tokens of a lane then
begin in the middle of a mini-batch, in each lane at another place. A `Grid` lays them out by
mini-batches, the same number for all lanes, whatever the lengths:

    grid = grid_of(state["index"], mask, m)
    keys = grid.lay(k)                                  # [B, n, m, ...]
    for j in range(grid.batches):
        ... reads of mini-batch j from the start and the sums so far, where grid.there[:, j]
        ... the sum moves into the start where grid.complete[:, j]
    reads = grid.lift(torch.stack(pieces, 1))           # [B, T, ...]
    state["index"] = grid.next_index
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Grid(NamedTuple):
    """T tokens of each lane on n mini-batches of m places."""

    slots: Tensor
    """[B, T] int64: the place of each token among the n m."""

    tokens: Tensor
    """[B, n m] int64: the token at each place; T where there is none."""

    there: Tensor
    """[B, n, m] bool: a token stands here and is written."""

    complete: Tensor
    """[B, n] bool: the mini-batch is full after these tokens."""

    next_index: Tensor
    """[B] int64: tokens in the mini-batch that is then open, 0 to m - 1."""

    @property
    def batches(self) -> int:
        """n, the number of mini-batches."""
        return self.there.shape[1]

    def lay(self, values: Tensor) -> Tensor:
        """[B, n, m, ...] of [B, T, ...]: zeros where no token stands.

        Tokens that are not written stand here, too: they may be read.
        """
        rest = values.shape[2:]
        flat = F.pad(values.flatten(2) if rest else values[..., None], (0, 0, 0, 1))
        laid = flat.gather(1, self.tokens[..., None].expand(-1, -1, flat.shape[2]))
        return laid.view(*self.there.shape, *rest)

    def lift(self, laid: Tensor) -> Tensor:
        """[B, T, ...] of [B, n, m, ...]: each token's from its place."""
        rest = laid.shape[3:]
        flat = laid.reshape(len(laid), self.tokens.shape[1], -1)
        found = flat.gather(1, self.slots[..., None].expand(-1, -1, flat.shape[2]))
        return found.view(*self.slots.shape, *rest)


def grid_of(index: Tensor, mask: Tensor, size: int) -> Grid:
    """The grid of the next T tokens.

    Args:
        index: [B] int64, tokens in each lane's open mini-batch, 0 to m - 1.
        mask: [B, T] bool, in each lane True first: the tokens that are written.
        size: m.
    """
    length = mask.shape[1]
    batches = batches_of(length, size)
    places = torch.arange(batches * size, device=mask.device)
    source = places - index[:, None]
    stands = (source >= 0) & (source < length)
    tokens = torch.where(stands, source, length)
    there = F.pad(mask, (0, 1)).gather(1, tokens).view(-1, batches, size)
    stop = index + mask.sum(1)
    ends = torch.arange(1, batches + 1, device=mask.device) * size
    return Grid(
        index[:, None] + torch.arange(length, device=mask.device),
        tokens,
        there,
        ends <= stop[:, None],
        stop % size,
    )


def batches_of(length: int, size: int) -> int:
    """Mini-batches of so many tokens, enough for a lane at the last place of its own."""
    return -(-(length + size - 1) // size)
