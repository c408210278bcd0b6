"""A test-time training layer as the memory of the shared block."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from tta_bench.heads import State
from tta_bench_methods.head.block.block import BlockOptions
from tta_bench_methods.head.block.gates import HALF_LIVES, Rate
from tta_bench_methods.head.block.memory import FastMemory
from tta_bench_methods.head.block.minibatch import grid_of
from tta_bench_methods.head.ttt.inner_loss import Norm
from tta_bench_methods.head.ttt.minibatch import InnerModel, Kernels
from tta_bench_methods.head.ttt.scan import Fading, Positions, Scan


@dataclass
class TestTimeTrainingOptions(BlockOptions):
    """How it is made; what `tta-bench train ttt-linear:key=value` sets."""

    __test__ = False  # no test case, whatever its name begins with

    minibatch: int = field(
        default=16, metadata={"help": "positions whose gradients are taken at the same weights"}
    )
    rate: float = field(default=1.0, metadata={"help": "inner learning rate, at most"})
    forget: Literal["learned", "off"] = field(
        default="off",
        metadata={"help": "learned: weights fade to the initial ones; off: as in the paper"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minibatch < 1 or self.rate <= 0:
            raise ValueError("minibatch must be at least 1 and rate above 0.")


class TestTimeTraining(FastMemory):
    """An inner model f that is trained, while a document is read, to give values by keys.

        loss_s = 1/2 |k_s + LN(f(k_s)) - v_s|^2
        W_t = W_start - tau_i sum over s of eta_s grad loss_s(W_start),   s in t's mini-batch
        r_t = q_t + LN(f(q_t; W_t))

    with keys and queries at RMS 1, eta_s = rate / w * sigmoid(W x_s + b), and a learned tau_i for
    the i-th position of a mini-batch, from 1 / i: about a mean, not a sum.

    Args:
        hidden_size: d.
        slow: how it is made.
        model: f.
    """

    __test__ = False

    def __init__(self, hidden_size: int, slow: TestTimeTrainingOptions, model: InnerModel):
        super().__init__()
        self.heads, self.width, self.size = slow.heads, slow.width, slow.minibatch
        self.model, self.scan = model, Scan(model)
        self.initial = nn.ParameterList(model.begin(slow.heads, slow.width))
        self.gain = nn.Parameter(torch.ones(slow.heads, slow.width))
        self.bias = nn.Parameter(torch.zeros(slow.heads, slow.width))
        self.rate = Rate(hidden_size, slow.heads)
        self.most = slow.rate / slow.width
        self.log_taus = nn.Parameter(-torch.arange(1.0, slow.minibatch + 1).log())
        self.log_half_lives: nn.Parameter | None = None
        if slow.forget == "learned":
            first, last = (math.log(life) for life in HALF_LIVES)
            self.log_half_lives = nn.Parameter(torch.linspace(first, last, slow.heads))

    def fresh(self, lanes: int) -> State:
        state = {}
        for number, kernel in enumerate(self.initial):
            begin = kernel.expand(lanes, -1, -1, -1)
            state[f"w{number}"], state[f"sum{number}"] = begin, torch.zeros_like(begin)
        device = self.gain.device
        return state | {"index": torch.zeros(lanes, dtype=torch.int64, device=device)}

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, mask: Tensor, state: State, strict: bool
    ) -> tuple[Tensor, State]:
        grid = grid_of(state["index"], mask, self.size)
        q, k = self._at_rms_one(q), self._at_rms_one(k)
        place = torch.arange(mask.shape[1], device=mask.device) + state["index"][:, None]
        taus = self.log_taus.exp()[place % self.size][..., None].expand(-1, -1, self.heads)
        positions = Positions(q, k, v - k, self.most * self.rate(x), taus)
        outputs, kernels, sums = self.scan(
            self._norm,
            positions,
            grid,
            -1 if strict else 0,
            self._of(state, "w"),
            self._of(state, "sum"),
            self._fading(),
        )
        after = {f"w{number}": kernel for number, kernel in enumerate(kernels)}
        after |= {f"sum{number}": held for number, held in enumerate(sums)}
        return self._read(q, outputs), after | {"index": grid.next_index}

    def frozen(self, q: Tensor, state: State) -> Tensor:
        q = self._at_rms_one(q)
        outputs = self.model.outputs(self._of(state, "w"), q.transpose(1, 2))
        return self._read(q, outputs.transpose(1, 2))

    def flops(self, positions: int) -> float:
        batches = -(-(positions + self.size - 1) // self.size)
        first, other = (self.model.flops(self.width, self.size, opened) for opened in (True, False))
        return self.rate.flops(positions) + self.heads * (first + (batches - 1) * other)

    def frozen_flops(self, positions: int) -> float:
        return positions * self.heads * self.model.read_flops(self.width)

    def compile_parts(self) -> None:
        """Compiles a mini-batch; a graph of all mini-batches of a chunk would take minutes."""
        self.scan.compile()

    @property
    def _norm(self) -> Norm:
        return Norm(self.gain[:, None], self.bias[:, None])

    def _at_rms_one(self, z: Tensor) -> Tensor:
        """Unit vectors at RMS 1: f and the rates have scales that were found with such keys."""
        return z * math.sqrt(self.width)

    def _fading(self) -> Fading | None:
        if self.log_half_lives is None:
            return None
        kept = torch.exp2(-self.size / self.log_half_lives.exp())
        return Fading(tuple(self.initial), kept)

    def _of(self, state: State, name: str) -> Kernels:
        return tuple(state[f"{name}{number}"] for number in range(len(self.initial)))

    def _read(self, q: Tensor, outputs: Tensor) -> Tensor:
        """r [B, T, H, w]."""
        return q + self._norm(outputs.transpose(1, 2)).transpose(1, 2)
