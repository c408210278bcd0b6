"""The memory of `titans`: a small network, its momentum, and where its gradients are taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.heads import State
from tta_bench_methods.head.block.block import BlockOptions
from tta_bench_methods.head.block.gates import Forgetting, Rate
from tta_bench_methods.head.block.memory import FastMemory
from tta_bench_methods.head.block.minibatch import batches_of, grid_of
from tta_bench_methods.head.titans.network import Weights, moved, plus, read, read_moving, steps
from tta_bench_methods.head.titans.scan import Scan, momentum_scan

MOMENTUM = 0.9
"""Share of the momentum that a token leaves, at the start of training."""


LONGEST = 1.0
"""Longest gradient of a position, in multiples of the root of the width."""


@dataclass
class TitansOptions(BlockOptions):
    """How slow weights are made; what `tta-bench train titans:key=value` sets.

    Narrower heads than those of other memories, and more of them: a network holds more than a
    matrix of its width.
    """

    heads: int = field(default=8, metadata={"help": "memories side by side"})
    width: int = field(default=32, metadata={"help": "of the keys and values of a head"})
    minibatch: int = field(
        default=16, metadata={"help": "tokens whose gradients are taken at the same weights"}
    )
    depth: int = field(default=2, metadata={"help": "layers of the memory; 1: a matrix"})
    expansion: int = field(
        default=4, metadata={"help": "hidden units of the memory, in multiples of width"}
    )
    rate: float = field(
        default=1.0, metadata={"help": "largest step, over a mini-batch of equal gradients"}
    )
    momentum: Literal["learned", "off"] = field(
        default="learned", metadata={"help": "of the steps, for each head and token"}
    )
    forget: Literal["learned", "off"] = field(
        default="learned", metadata={"help": "fading of the memory, for each head and token"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.minibatch, self.depth, self.expansion) < 1:
            raise ValueError("minibatch, depth and expansion must be at least 1.")
        if self.rate <= 0:
            raise ValueError("rate must be above 0.")


class Momentum(Rate):
    """Logarithms of what a token leaves of the momentum, log sigmoid(W x + b) for each head."""

    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x @ self.weight.mT + self.bias)


class TitansMemory(FastMemory):
    """A network a head, `slow.heads` of them; the state holds what it is away from the learned one.

    So what is forgotten fades to the learned weights and not to 0. LN does not see the length of
    weights: those that fade to 0 forget nothing, and as they shrink the gradients of the loss grow
    as one over their length, until steps overshoot and training through them explodes.

    Weights begin as N(0, 1): with keys of unit length and LN behind the last layer the loss is then
    about equally curved along every tensor, and a rate of 1 goes about as far as it may.
    """

    def __init__(self, hidden_size: int, slow: TitansOptions):
        super().__init__()
        self.heads, self.width = heads, width = slow.heads, slow.width
        self.minibatch, self.step = slow.minibatch, slow.rate
        self.longest = LONGEST * width**0.5
        inner = slow.expansion * width
        sizes = [width, *[inner] * (slow.depth - 1), width]
        self.gain = nn.Parameter(torch.zeros(heads, width))
        self.layers = nn.ParameterList()
        for number, (source, target) in enumerate(pairwise(sizes)):
            between = 0 < number < slow.depth - 1  # its inputs are not of unit length
            scale = source**-0.5 if between else 1.0
            self.layers.append(scale * torch.randn(heads, source, target))
        self.rate = Rate(hidden_size, heads)
        self.forgetting = Forgetting(hidden_size, heads) if slow.forget == "learned" else None
        self.momentum = (
            Momentum(hidden_size, heads, MOMENTUM) if slow.momentum == "learned" else None
        )

    def fresh(self, lanes: int) -> State:
        state = {"index": torch.zeros(lanes, dtype=torch.int64, device=self.gain.device)}
        nothing = [value.new_zeros(lanes, *value.shape) for value in _flat(self._origin)]
        state |= _named("base", nothing) | _named("memory", nothing)
        if self.momentum is not None:
            state |= _named("momentum", nothing)
        return state

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, mask: Tensor, state: State, strict: bool
    ) -> tuple[Tensor, State]:
        grid = grid_of(state["index"], mask, self.minibatch)

        def laid(values: Tensor) -> Tensor:  # [B, n, H, m, ...]
            return grid.lay(values).transpose(2, 3)

        queries, keys, values = laid(q), laid(k), laid(v)
        written = grid.there[:, :, None].to(q.dtype)  # [B, n, 1, m]
        rates = self.step / self.minibatch * self.rate(x)
        if self.momentum is None:
            log_momentum = None
        else:
            of_tokens = self.momentum(x)
            rates = rates * (1 - of_tokens.exp())
            log_momentum = laid(of_tokens) * written
        rates = laid(rates) * written
        log_keep = torch.zeros_like(rates)
        if self.forgetting is not None:
            log_keep = laid(self.forgetting(x)) * written
        scan = momentum_scan(log_keep, log_momentum, written)
        reading = scan.before() if strict else scan
        base, memory = self._held("base", state), self._held("memory", state)
        momentum = None if self.momentum is None else self._held("momentum", state)
        reads = []
        for j, (now, at) in enumerate(zip(_each(scan), _each(reading), strict=True)):
            parts = queries[:, j], keys[:, j], values[:, j], rates[:, j]
            found, memory, momentum = self.minibatch_of(base, memory, momentum, *parts, now, at)
            reads.append(found)
            base = _where(grid.complete[:, j], memory, base)
        after = {"index": grid.next_index} | _named("base", _flat(base))
        after |= _named("memory", _flat(memory))
        if momentum is not None:
            after |= _named("momentum", _flat(momentum))
        return grid.lift(torch.stack(reads, 1).transpose(2, 3)), after

    def minibatch_of(
        self,
        base: Weights,
        memory: Weights,
        momentum: Weights | None,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        rates: Tensor,
        scan: Scan,
        reading: Scan,
    ) -> tuple[Tensor, Weights, Weights | None]:
        """Reads of a mini-batch, and the memory and its momentum behind it."""
        taken = steps(plus(self._origin, base), keys, values, rates, self.longest)
        reads = read_moving(memory, momentum, taken, reading, queries, self._origin)
        return reads, *moved(memory, momentum, taken, scan)

    def compile_parts(self) -> None:
        self.minibatch_of = torch.compile(self.minibatch_of, dynamic=False)  # type: ignore[method-assign]

    def frozen(self, q: Tensor, state: State) -> Tensor:
        memory = plus(self._origin, self._held("memory", state))
        return read(memory, q.transpose(1, 2)).transpose(1, 2)

    def flops(self, positions: int) -> float:
        gates = sum(
            gate.flops(positions) for gate in (self.rate, self.forgetting, self.momentum) if gate
        )
        sizes = [layer.shape[1:] for layer in self.layers]
        moving = self.momentum is not None
        batches = batches_of(positions, self.minibatch)
        return gates + batches * self.heads * minibatch_flops(sizes, self.minibatch, moving)

    def frozen_flops(self, positions: int) -> float:
        return 2.0 * positions * sum(layer.numel() for layer in self.layers)

    @property
    def _origin(self) -> Weights:
        """The learned weights, those of a document's start."""
        return Weights(self.gain, tuple(self.layers))

    def _held(self, kind: str, state: State) -> Weights:
        """What of this kind there is in a state: the gain and the layers."""
        gain, *layers = (state[f"{kind}.{number}"] for number in range(len(self.layers) + 1))
        return Weights(gain, tuple(layers))


def minibatch_flops(sizes: list[torch.Size], positions: int, moving: bool) -> float:
    """FLOPs of m positions of one head: their scan, their steps, their reads, and the writing.

    Args:
        sizes: (in, out) of each layer.
        positions: m.
        moving: whether there is momentum.
    """
    layers = [source * target for source, target in sizes]
    width = sizes[-1][1]
    # Forward, reading of what stays and of what moves, back through all but the first, and the sum
    # of the steps.
    products = (4 + 2 * moving) * sum(layers) + sum(layers[1:]) + (1 + moving) * width
    pairs = sum(source + target for source, target in sizes) + width
    if moving:  # of a scan: two triangles, and what is left of the momentum
        pairs += positions + 1
    return 2.0 * positions * (products + pairs * positions)


def _each(scan: Scan) -> Iterator[Scan]:
    """The scans of the mini-batches, one after another."""
    for j in range(scan.left.shape[1]):
        parts: Any = (None if part is None else part[:, j] for part in scan)
        yield Scan(*parts)


def _flat(weights: Weights) -> list[Tensor]:
    return [weights.gain, *weights.layers]


def _named(kind: str, tensors: list[Tensor]) -> State:
    return {f"{kind}.{number}": value for number, value in enumerate(tensors)}


def _where(lanes: Tensor, one: Weights, other: Weights) -> Weights:
    chosen = [
        torch.where(lanes.view(-1, *[1] * (a.dim() - 1)), a, b)
        for a, b in zip(_flat(one), _flat(other), strict=True)
    ]
    return Weights(chosen[0], tuple(chosen[1:]))
