"""A matrix a head as memory: linear attention, the delta rule, and the gated delta rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_bench.heads import State
from tta_bench_methods.head.block.block import BlockOptions
from tta_bench_methods.head.block.gates import Forgetting, Rate
from tta_bench_methods.head.block.memory import FastMemory
from tta_bench_methods.head.linear.rule import linear_rule, rule_flops, rule_invisible_flops


class MatrixMemory(FastMemory):
    """S [w, w] for each head, read as S^T q; see `linear_rule`.

    Args:
        hidden_size: d.
        slow: heads and width.
        corrects: a key's write is what the state lacks, at a rate of sigmoid(W x + b); otherwise
            it is the value as it is.
        forgets: what was written fades, at a speed that depends on x.
    """

    def __init__(self, hidden_size: int, slow: BlockOptions, corrects: bool, forgets: bool):
        super().__init__()
        self.heads, self.width = slow.heads, slow.width
        self.initial = nn.Parameter(torch.zeros(slow.heads, slow.width, slow.width))
        self.rate = Rate(hidden_size, slow.heads) if corrects else None
        self.forgetting = Forgetting(hidden_size, slow.heads) if forgets else None

    def fresh(self, lanes: int) -> State:
        return {"S": self.initial.expand(lanes, -1, -1, -1)}

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, mask: Tensor, state: State, strict: bool
    ) -> tuple[Tensor, State]:
        written = mask[..., None].to(x.dtype).expand(-1, -1, self.heads)  # [B, T, H]
        rates = written if self.rate is None else written * self.rate(x)
        decays = torch.zeros_like(rates)
        if self.forgetting is not None:
            decays = written * self.forgetting(x)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [B, H, T, w]
        reads, after = linear_rule(
            q,
            k,
            v,
            rates.transpose(1, 2),
            decays.transpose(1, 2),
            state["S"],
            strict=strict,
            corrects=self.rate is not None,
        )
        return reads.transpose(1, 2), {"S": after}

    def frozen(self, q: Tensor, state: State) -> Tensor:
        return (q.transpose(1, 2) @ state["S"]).transpose(1, 2)

    def flops(self, positions: int) -> float:
        gates = sum(gate.flops(positions) for gate in (self.rate, self.forgetting) if gate)
        rule = rule_flops(positions, self.width, self.width, self.rate is not None)
        return gates + self.heads * rule

    def frozen_flops(self, positions: int) -> float:
        return 2.0 * positions * self.initial.numel()

    def invisible_flops(self, positions: int) -> float:
        if self.rate is None:
            return 0.0
        return self.heads * rule_invisible_flops(positions, self.width, self.width)
