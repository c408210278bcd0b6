"""What positions leave behind in Fast Weight Layers: slow activations, and gradients at them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

LAYER = {"w1": "first", "b1": "first", "w2": "second", "b2": "second"}
"""Whose gradient a tensor writes, and whose half-lives it shares: kernel and bias of a layer have
both in common; alpha and beta have a gradient each and the half-lives of the norm."""


class SlowPass(NamedTuple):
    """Activations with the slow weights, each [B, T, ...]."""

    x: Tensor  # input [d]
    skip: Tensor | None  # added to the output [o]
    z1: Tensor  # [m]
    a1: Tensor  # [m]
    u: Tensor  # normalised z2 [o]
    inverse_sigma: Tensor  # [1]
    y: Tensor  # output [o]

    @property
    def keys(self) -> dict[str, Tensor]:
        """What the kernels are given, by their names: the keys under which they write."""
        return {"w1": self.x, "w2": self.a1}

    def at(self, columns: slice | Tensor) -> SlowPass:
        """Some of the positions: a slice of them, or one a lane by its index [B, 1]."""

        def some(value: Tensor) -> Tensor:
            if isinstance(columns, slice):
                return value[:, columns]
            return value.gather(1, columns[..., None].expand(-1, -1, value.shape[2]))

        skip = None if self.skip is None else some(self.skip)
        x, _, *rest = self
        assert x is not None
        return SlowPass(some(x), skip, *(some(value) for value in rest if value is not None))


class Writes(NamedTuple):
    """What positions leave behind for the tensors that are fast, by name."""

    keys: dict[str, Tensor]  # of the kernels, by their names: x, a1
    values: dict[str, Tensor]  # d1 ("first"), d2 ("second"), d_alpha ("alpha"), d_beta ("beta")

    def at(self, columns: slice) -> Writes:
        """Some of the positions."""
        return Writes(
            {name: value[:, columns] for name, value in self.keys.items()},
            {name: value[:, columns] for name, value in self.values.items()},
        )

    def of(self, name: str) -> Tensor:
        """The values that a tensor writes."""
        return self.values[LAYER.get(name, name)]

    def closed(self, last: Tensor, final: Writes, slow: SlowPass) -> Writes:
        """The writes of all T positions, from those of the first T - 1 and each lane's last.

        Args:
            last: [B, 1] int64, where a lane's last one is; there `self` holds zeros, or nothing.
            final: [B, 1, ...], what it writes.
            slow: the slow pass of all T.
        """
        keys = slow.keys
        return Writes(
            {name: keys[name] for name in self.keys},
            {
                name: F.pad(value, (0, 0, 0, 1)).scatter_(
                    1, last[..., None].expand_as(final.values[name]), final.values[name]
                )
                for name, value in self.values.items()
            },
        )
