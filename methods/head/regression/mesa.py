"""`mesa`: the exact answer to the regression of all values on all keys, at every position.

    W_t = argmin over W of sum over s of weights |W^T k_s - v_s|^2 + tr((W - W_0)^T L (W - W_0)),
    r_t = W_t^T q_t

for each head (the Mesa layer: von Oswald et al. 2025, arXiv 2506.05233; one of the choices of Wang,
Shi & Fox 2025, arXiv 2501.12352). Where the delta rule takes a step on the newest pair, this solves
for all. The weight of a pair is b_s = sigmoid(w x_s + c), and fades as g_t says, which comes from
x_t as in `gated-delta`; with `forget=off` nothing fades. The ridge L, a number for each entry of a
key, and the prior W_0, the map at a document's start, are learned and never fade. The state, two
matrices a head, is twice that of the delta rule. In closed form over a chunk: see `chunk.py`.

Departures from the paper's layer: solved exactly in place of conjugate gradients, a prior, no short
convolutions and no activations. `regression` is the untrained row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench import register
from tta_bench.heads import State
from tta_bench_methods.head.block.block import BlockOptions
from tta_bench_methods.head.block.gates import Forgetting, Rate
from tta_bench_methods.head.block.memory import FastMemory
from tta_bench_methods.head.block.method import FastMethod
from tta_bench_methods.head.regression.chunk import (
    own_flops,
    own_invisible_flops,
    own_solves,
    shared_flops,
    shared_invisible_flops,
    shared_solves,
)

LEAST = 0.25
"""Lower bound of the ridge, the authors': a sum over a long document stays well conditioned."""

RIDGE = 1.0
"""The ridge at the start of training, the authors'."""


@dataclass
class MesaOptions(BlockOptions):
    """How it is made; what `tta-bench train mesa:key=value` sets.

    Narrower heads than those of other memories, and more of them: the state, two matrices a head,
    is then of the same size, and a position's solve cheap.
    """

    heads: int = field(default=8, metadata={"help": "memories side by side"})
    width: int = field(default=32, metadata={"help": "of the keys and values of a head"})
    forget: Literal["learned", "off"] = field(
        default="learned",
        metadata={"help": "what is left of a pair's weight after a token; off: all"},
    )


@register("mesa")
class Mesa(FastMethod):
    """Ridge regression with learned keys and values, solved exactly at every position."""

    Slow = MesaOptions

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> MesaMemory:
        return MesaMemory(hidden_size, slow, forgets=slow.forget == "learned")


class MesaMemory(FastMemory):
    """The sums H and R [w, w] of each head.

    Args:
        hidden_size: d.
        slow: heads and width.
        forgets: weights fade, at a speed that depends on x.
    """

    def __init__(self, hidden_size: int, slow: BlockOptions, forgets: bool):
        super().__init__()
        self.heads, self.width = slow.heads, slow.width
        self.initial = nn.Parameter(torch.zeros(slow.heads, slow.width, slow.width))  # W_0
        start = torch.full((slow.heads, slow.width), RIDGE - LEAST)
        self.ridge = nn.Parameter(start.expm1().log())
        self.rate = Rate(hidden_size, slow.heads)
        self.forgetting = Forgetting(hidden_size, slow.heads) if forgets else None

    def fresh(self, lanes: int) -> State:
        sums = self.initial.new_zeros(lanes, *self.initial.shape)
        return {"second": sums, "cross": sums.clone()}

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, mask: Tensor, state: State, strict: bool
    ) -> tuple[Tensor, State]:
        rates = self.rate(x).transpose(1, 2)  # [B, H, T]
        q, k, v = (part.transpose(1, 2) for part in (q, k * mask[..., None, None], v))
        learned = LEAST + F.softplus(self.ridge), self.initial, state["second"], state["cross"]
        if self.forgetting is None:
            reads, second, cross = shared_solves(q, k, v, rates, *learned, strict=strict)
        else:
            decays = (self.forgetting(x) * mask[..., None]).transpose(1, 2)
            reads, second, cross = own_solves(q, k, v, rates, decays, *learned, strict=strict)
        return reads.transpose(1, 2), {"second": second, "cross": cross}

    def frozen(self, q: Tensor, state: State) -> Tensor:
        """As in `FastMemory`, of a fresh state, whose solution is the prior."""
        return (q.transpose(1, 2) @ self.initial).transpose(1, 2)

    def flops(self, positions: int) -> float:
        own = self.rate.flops(positions)
        if self.forgetting is None:
            return own + self.heads * shared_flops(positions, self.width, self.width)
        own += self.forgetting.flops(positions)
        return own + self.heads * own_flops(positions, self.width, self.width)

    def frozen_flops(self, positions: int) -> float:
        return 2.0 * positions * self.initial.numel()

    def invisible_flops(self, positions: int) -> float:
        if self.forgetting is None:
            return self.heads * shared_invisible_flops(positions, self.width, self.width)
        return self.heads * own_invisible_flops(positions, self.width)
