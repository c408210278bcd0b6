"""Which keys and values are kept of the groups of COMP tokens: all of the latest, or their mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Slots of a lane, filled from the right end, the newest group last.

    Attributes:
        group: n, the COMP tokens of a chunk.
        chunks: how many groups stay beside each other; the oldest is dropped. 0: none is kept.
        merge: all groups share n slots instead, which hold their mean.
    """

    group: int
    chunks: int
    merge: bool

    @property
    def size(self) -> int:
        """S, the number of slots."""
        return self.group * (min(self.chunks, 1) if self.merge else self.chunks)

    def held(self, groups: Tensor) -> Tensor:
        """How many slots are filled once so many groups were taken in; of the same shape."""
        return (groups * self.group).clamp(max=self.size)

    def filled(self, groups: Tensor) -> Tensor:
        """[B, S] bool, of [B] groups: the slots that hold something."""
        places = torch.arange(self.size, device=groups.device)
        return places >= self.size - self.held(groups)[:, None]

    def taken_in(self, old: Tensor, fresh: Tensor, groups: Tensor) -> Tensor:
        """The slots with one more group.

        Args:
            old: [B, ..., S, D].
            fresh: [B, ..., n, D], of the new group.
            groups: [B], how many there are with it.
        """
        if not self.merge:
            return torch.cat([old, fresh], dim=-2)[..., self.group :, :]
        share = 1 / groups.to(old.dtype).view(-1, *[1] * (old.dim() - 1))
        return (1 - share) * old + share * fresh
