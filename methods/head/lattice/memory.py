"""The memory of `lattice`: slots of unit length, and where their steps are taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.heads import State
from tta_bench_methods.head.block.block import BlockOptions
from tta_bench_methods.head.block.decay import products
from tta_bench_methods.head.block.gates import Forgetting, Rate
from tta_bench_methods.head.block.memory import FastMemory
from tta_bench_methods.head.block.minibatch import batches_of, grid_of
from tta_bench_methods.head.lattice.slots import (
    Objective,
    Steps,
    minibatch_flops,
    read,
    read_moving,
    steps,
)

START = 0.1
"""Size of a step at the start of training."""


@dataclass
class LatticeOptions(BlockOptions):
    """How slow weights are made; what `tta-bench train lattice:key=value` sets."""

    minibatch: int = field(
        default=16, metadata={"help": "tokens whose steps are taken at the same slots"}
    )
    objective: Objective = field(
        default="decoding", metadata={"help": "what a step descends: see docs/fast-weights.md"}
    )
    forget: Literal["learned", "off"] = field(
        default="off",
        metadata={"help": "slots shrink before a step, which then turns them further"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minibatch < 1:
            raise ValueError("minibatch must be at least 1.")


class LatticeMemory(FastMemory):
    """As many slots a head as a key has entries. They are brought to unit length once a mini-batch.

    Values of the block have unit RMS; here they count in units of the root of their width, as slots
    of unit length do, and reads are brought back.
    """

    def __init__(self, hidden_size: int, slow: LatticeOptions):
        super().__init__()
        self.heads, self.width = heads, width = slow.heads, slow.width
        self.minibatch, self.objective = slow.minibatch, slow.objective
        self.scale = width**0.5
        self.slots = nn.Parameter(torch.randn(heads, width, width))
        self.rate = Rate(hidden_size, heads, START)
        self.forgetting = Forgetting(hidden_size, heads) if slow.forget == "learned" else None

    def fresh(self, lanes: int) -> State:
        slots = F.normalize(self.slots, dim=-1).expand(lanes, *self.slots.shape)
        index = torch.zeros(lanes, dtype=torch.int64, device=slots.device)
        return {"index": index, "base": slots, "slots": slots}

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, mask: Tensor, state: State, strict: bool
    ) -> tuple[Tensor, State]:
        grid = grid_of(state["index"], mask, self.minibatch)

        def laid(values: Tensor) -> Tensor:  # [B, n, H, m, ...]
            return grid.lay(values).transpose(2, 3)

        queries, keys, values = laid(q), laid(k), laid(v / self.scale)
        written = grid.there[:, :, None].to(q.dtype)  # [B, n, 1, m]
        rates = laid(self.rate(x)) * written
        log_keep = torch.zeros_like(rates)
        if self.forgetting is not None:
            log_keep = laid(self.forgetting(x)) * written
        kept, left = products(log_keep), log_keep.cumsum(-1).exp()
        base, slots, reads = state["base"], state["slots"], []
        for j in range(grid.batches):
            found, base, slots = self.minibatch_of(
                base,
                slots,
                queries[:, j],
                steps(base, keys[:, j], values[:, j], rates[:, j], self.objective),
                kept[:, j],
                left[:, j],
                grid.complete[:, j, None, None, None],
                strict,
            )
            reads.append(found)
        after = {"index": grid.next_index, "base": base, "slots": slots}
        return self.scale * grid.lift(torch.stack(reads, 1).transpose(2, 3)), after

    def minibatch_of(
        self,
        base: Tensor,
        slots: Tensor,
        queries: Tensor,
        taken: Steps,
        kept: Tensor,
        left: Tensor,
        complete: Tensor,
        strict: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reads of a mini-batch; behind it the slots where steps are taken, and those now."""
        reads, slots = read_moving(slots, taken, kept, left, queries, strict)
        slots = torch.where(complete, F.normalize(slots, dim=-1), slots)
        return reads, torch.where(complete, slots, base), slots

    def compile_parts(self) -> None:
        self.minibatch_of = torch.compile(self.minibatch_of, dynamic=False)  # type: ignore[method-assign]

    def frozen(self, q: Tensor, state: State) -> Tensor:
        return self.scale * read(state["slots"], q.transpose(1, 2)).transpose(1, 2)

    def flops(self, positions: int) -> float:
        gates = sum(gate.flops(positions) for gate in (self.rate, self.forgetting) if gate)
        batches = batches_of(positions, self.minibatch)
        rule = minibatch_flops(self.minibatch, self.width, self.width, self.objective)
        return gates + batches * self.heads * rule

    def frozen_flops(self, positions: int) -> float:
        return 2.0 * positions * self.slots.numel()
