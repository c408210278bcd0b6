"""Which token's entry lies in which slot: the first tokens and the latest, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Slots of a lane, filled from the right end: first its sinks, then the most recent tokens.

    Attributes:
        sinks: how many of the first tokens stay.
        size: the number of slots, sinks included.
    """

    sinks: int
    size: int

    def held(self, read: Tensor) -> Tensor:
        """How many entries a lane has after so many tokens; of the same shape."""
        return read.clamp(max=self.size)

    def places(self, read: Tensor) -> Tensor:
        """[B, size], the place of each slot's entry among those of its lane; below 0 if empty.

        Args:
            read: [B], tokens read so far.
        """
        slots = torch.arange(self.size, device=read.device)
        return slots - (self.size - self.held(read)[:, None])

    def sources(self, before: Tensor, after: Tensor) -> Tensor:
        """[B, size], where the entry of each slot lies among the old slots and the chunk behind.

        That of an empty slot is any place in the lane's own.

        Args:
            before: [B], tokens read before the chunk.
            after: [B], tokens read with it.
        """
        places = self.places(after)
        evicted = after - self.held(after)
        # A sink is where its place says; token t is among the newest, counted from the end.
        moved = torch.where(
            places < self.sinks, -self.held(before)[:, None], (evicted - before)[:, None]
        )
        return (self.size + places + moved).clamp(min=0)
