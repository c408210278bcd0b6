"""Preconditioned steps of Fast Weight Layers: P G Q in the place of a kernel's gradient G.

A first-order step goes far along what most keys have in common and hardly along what few have.
Least squares, which `regression` solves, divides by the keys' second moment H = sum key key^T. Two
forms of that keep the cost of a layer, since a read of P G Q = sum_s P key_s value_s^T Q needs P on
its query and Q on what it finds, and what is written stays the plain gradient:

*Learned.* P and Q are slow weights, the same for every document: I + M on the narrow side of a
kernel, a positive factor for each unit on its wide side. A bias takes Q of its layer, too.

*Running.* Q = 1, and P is the inverse of the diagonal of H, of the document so far, over what was
expected of it: at position t the factor of unit i is

    p_ti = (n_0 + t) / (n_0 + sum_{s<=t} key_si^2 / m_i)

with n_0 = 64 tokens that weigh what is expected, and learned moments m_i. It begins at 1. Keys come
from inputs alone, so that the key of t itself counts.

Both begin as the plain step: M = 0 and factors of 1; m_i = 1, the mean square of x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["off", "learned", "running"]

EXPECTED = 64.0
"""n_0: tokens that the expected second moments count for."""


class Preconditioner(nn.Module):
    """What multiplies the step of one fast kernel [in, out]. The plain step unless overridden."""

    products: int = 0
    """Multiply-adds of each position."""

    def fresh(self, like: Tensor, lanes: int) -> dict[str, Tensor]:
        """The state of lanes that have read nothing, [lanes, 1, ...], of the dtype of `like`."""
        return {}

    def queries(self, queries: Tensor, keys: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """q P [B, T, in].

        Args:
            queries: [B, T, in].
            keys: [B, T, in], those of the same positions.
            state: what the keys before them left.
        """
        return queries

    def steps(self, found: Tensor) -> Tensor:
        """found Q [B, T, out]."""
        return found

    def after(
        self, keys: Tensor, state: Mapping[str, Tensor], lengths: Tensor | None
    ) -> dict[str, Tensor]:
        """The state after these keys, of which lane b has `lengths[b]`; None: all T."""
        return {}


class Learned(Preconditioner):
    """P and Q as slow weights."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        narrow, wide = min(inner, outer), max(inner, outer)
        self.narrow_in = inner <= outer
        self.mixed = nn.Parameter(torch.zeros(narrow, narrow))  # M
        self.factors = nn.Parameter(torch.zeros(wide))  # as logarithms
        self.products = narrow**2

    def queries(self, queries: Tensor, keys: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        return self._side(queries, self.narrow_in)

    def steps(self, found: Tensor) -> Tensor:
        return self._side(found, not self.narrow_in)

    def _side(self, values: Tensor, narrow: bool) -> Tensor:
        if narrow:
            return values + (values @ self.mixed).to(values.dtype)
        return values * self.factors.exp()


class Running(Preconditioner):
    """P from the keys of the document so far: their sum of squares, and how many they are."""

    def __init__(self, inner: int):
        super().__init__()
        self.expected = nn.Parameter(torch.zeros(inner))  # m, as logarithms

    def fresh(self, like: Tensor, lanes: int) -> dict[str, Tensor]:
        squares = like.new_zeros(lanes, 1, len(self.expected))
        return {"squares": squares, "count": like.new_zeros(lanes, 1, 1)}

    def queries(self, queries: Tensor, keys: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        squares = state["squares"] + keys.square().cumsum(1)
        count = state["count"] + torch.arange(1, keys.shape[1] + 1, device=keys.device)[:, None]
        factors = (EXPECTED + count) / (EXPECTED + squares * (-self.expected).exp())
        return queries * factors.to(queries.dtype)

    def after(
        self, keys: Tensor, state: Mapping[str, Tensor], lengths: Tensor | None
    ) -> dict[str, Tensor]:
        there = torch.ones_like(keys[..., :1])
        if lengths is not None:
            places = torch.arange(keys.shape[1], device=keys.device)
            there = (places < lengths[:, None])[..., None].to(keys.dtype)
        squares = (keys.square() * there).sum(1, keepdim=True)
        return {
            "squares": state["squares"] + squares,
            "count": state["count"] + there.sum(1, keepdim=True),
        }


def preconditioner(kind: Kind, inner: int, outer: int) -> Preconditioner:
    """The preconditioner of a kernel [in, out]; the plain step where `kind` is `off`."""
    if kind == "learned":
        return Learned(inner, outer)
    return Running(inner) if kind == "running" else Preconditioner()
