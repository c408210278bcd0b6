"""The regressions that `regression` chooses from: what they keep, how they read and write it.

All of them keep float32 tensors with a lane dimension first, and change them in place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from tta_bench_methods.head.linear.rule import linear_rule, rule_flops, rule_invisible_flops
from tta_bench_methods.head.regression.exact import (
    corrections_in_chunk,
    reads_one_by_one,
    solved,
)

State = dict[str, Tensor]


class Regression(ABC):
    """Pairs of keys [B, C, d] and values [B, C, d] go in, values of new keys come out."""

    def __init__(self, params: Any, width: int):
        self.params = params
        self.width = width

    @abstractmethod
    def fresh(self) -> State:
        """The state of one lane that has seen no pair."""

    @abstractmethod
    def read(self, keys: Tensor, state: State) -> Tensor:
        """Values [B, C, d] of these keys, from the chunks before."""

    @abstractmethod
    def read_in_chunk(self, keys: Tensor, values: Tensor, known: Tensor, state: State) -> Tensor:
        """What pairs s < t of the same chunk add to `known` at t, which `read` gave; strict."""

    @abstractmethod
    def write(self, keys: Tensor, values: Tensor, scored: Tensor, state: State) -> None:
        """Learns the first `scored[b]` pairs of each lane; keys are zeros after them."""

    @abstractmethod
    def flops(self, columns: int, in_chunk: bool) -> float:
        """FLOPs of a step of one lane, with or without `read_in_chunk`."""

    def invisible_flops(self, columns: int, in_chunk: bool) -> float:
        """The part of `flops` that PyTorch's counter cannot see: factorisations and solves."""
        return 0.0


class Exact(Regression):
    """Ridge regression, solved anew for each chunk."""

    def fresh(self) -> State:
        square = torch.zeros(self.width, self.width)
        return {"second": square, "cross": square.clone()}

    def read(self, keys: Tensor, state: State) -> Tensor:
        return keys @ solved(state["second"], state["cross"], self._ridge(keys))

    def read_in_chunk(self, keys: Tensor, values: Tensor, known: Tensor, state: State) -> Tensor:
        ridge = self._ridge(keys)
        if self.params.decay == 1:
            inverse_times_keys = solved(state["second"], keys.mT, ridge)
            return corrections_in_chunk(keys, inverse_times_keys, values - known)
        ones = torch.ones_like(keys[..., 0])
        decays = torch.full_like(ones, math.log(self.params.decay))
        held = state["second"], state["cross"]
        reads, _, _ = reads_one_by_one(keys, keys, values, ones, decays, ridge, *held, strict=True)
        return reads - known

    def write(self, keys: Tensor, values: Tensor, scored: Tensor, state: State) -> None:
        weighted = keys * _weights(self.params.decay, scored, keys.shape[1])
        left = self.params.decay ** scored[:, None, None]
        state["second"].mul_(left).add_(weighted.mT @ keys)
        state["cross"].mul_(left).add_(weighted.mT @ values)

    def _ridge(self, keys: Tensor) -> Tensor:
        return torch.full((self.width,), self.params.ridge, device=keys.device)

    def flops(self, columns: int, in_chunk: bool) -> float:
        products = 6 * columns * self.width**2  # the read, and both sums
        if in_chunk and self.params.decay == 1:
            products += 4 * columns**2 * self.width
        if in_chunk and self.params.decay < 1:
            products += 6 * columns * self.width**2
        return products + self.invisible_flops(columns, in_chunk)

    def invisible_flops(self, columns: int, in_chunk: bool) -> float:
        factor = self.width**3 / 3
        solves = factor + 2 * self.width**3
        if in_chunk and self.params.decay == 1:
            solves += factor + 2 * columns * self.width**2 + columns**3 / 3 + columns**3
        if in_chunk and self.params.decay < 1:
            solves += columns * (2 * factor + 2 * self.width**2)
        return solves


class Steps(Regression):
    """One step of gradient descent a pair: the delta rule, in closed form over a chunk."""

    def fresh(self) -> State:
        return {"map": torch.zeros(self.width, self.width)}

    def read(self, keys: Tensor, state: State) -> Tensor:
        return keys @ state["map"]

    def read_in_chunk(self, keys: Tensor, values: Tensor, known: Tensor, state: State) -> Tensor:
        rates, decays = self._rates(keys[..., 0], None)
        reads, _ = linear_rule(keys, keys, values, rates, decays, state["map"], strict=True)
        return reads - known

    def write(self, keys: Tensor, values: Tensor, scored: Tensor, state: State) -> None:
        rates, decays = self._rates(keys[..., 0], scored)
        _, after = linear_rule(keys, keys, values, rates, decays, state["map"])
        state["map"].copy_(after)

    def _rates(self, like: Tensor, scored: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rates and log decays [B, C]; nothing is learned or forgotten where nothing is scored."""
        columns = torch.arange(like.shape[1], device=like.device)
        there = torch.ones_like(like) if scored is None else (columns < scored[:, None]).float()
        return self.params.rate * there, math.log(self.params.decay) * there

    def flops(self, columns: int, in_chunk: bool) -> float:
        read = 2 * columns * self.width**2
        return read + (1 + in_chunk) * rule_flops(columns, self.width, self.width)

    def invisible_flops(self, columns: int, in_chunk: bool) -> float:
        return (1 + in_chunk) * rule_invisible_flops(columns, self.width, self.width)


class Kernel(Regression):
    """The mean value of the last pairs, weighted by exp(theta k . k_s)."""

    def fresh(self) -> State:
        pairs = torch.zeros(self.params.window, self.width)
        return {
            "keys": pairs,
            "values": pairs.clone(),
            "filled": torch.zeros((), dtype=torch.int64),
        }

    def read(self, keys: Tensor, state: State) -> Tensor:
        return self._mean(keys, state["keys"], state["values"], self._held(state)[:, None])

    def read_in_chunk(self, keys: Tensor, values: Tensor, known: Tensor, state: State) -> Tensor:
        columns = torch.arange(keys.shape[1], device=keys.device)
        before = (columns[None, :] < columns[:, None]).expand(len(keys), -1, -1)
        held = self._held(state)[:, None].expand(-1, keys.shape[1], -1)
        every = torch.cat([state["keys"], keys], 1), torch.cat([state["values"], values], 1)
        return self._mean(keys, *every, torch.cat([held, before], 2)) - known

    def write(self, keys: Tensor, values: Tensor, scored: Tensor, state: State) -> None:
        size = self.params.window
        places = torch.arange(size, device=keys.device) + scored[:, None]
        for name, new in (("keys", keys), ("values", values)):
            both = torch.cat([state[name], new], dim=1)
            index = places[..., None].expand(-1, -1, self.width)
            state[name].copy_(both.gather(1, index))
        state["filled"].add_(scored).clamp_(max=size)

    def _held(self, state: State) -> Tensor:
        """[B, W] bool: which places of the memory hold a pair; the newest lie last."""
        places = torch.arange(self.params.window, device=state["keys"].device)
        return places >= self.params.window - state["filled"][:, None]

    def _mean(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        # In float64, since a sharp kernel and a large step make much of rounding.
        similar = self.params.theta * queries.double() @ keys.double().mT
        shares = similar.masked_fill(~visible, -math.inf).softmax(-1)
        # Where nothing is visible there is no correction.
        return (shares.nan_to_num() @ values.double()).to(values.dtype)

    def flops(self, columns: int, in_chunk: bool) -> float:
        read = 4 * columns * self.params.window * self.width
        return read + in_chunk * (read + 4 * columns**2 * self.width)


def regression_of(params: Any, width: int) -> Regression:
    """The regression that the hyper-parameters choose, on keys of this width."""
    if params.function == "kernel":
        return Kernel(params, width)
    return (Exact if params.solver == "exact" else Steps)(params, width)


def _weights(decay: float, scored: Tensor, columns: int) -> Tensor:
    """[B, C, 1]: what is left of each pair at the end of its chunk."""
    distance = scored[:, None] - 1 - torch.arange(columns, device=scored.device)
    return (decay ** distance.clamp_min(0))[..., None].float()
