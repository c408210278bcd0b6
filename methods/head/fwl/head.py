"""Fast weight layers as a head between body and unembedding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from tta_bench import Window
from tta_bench.heads import Head, SlowOptions, State, Unembedding
from tta_bench_methods.head.block.scale import unit_scale
from tta_bench_methods.head.fwl.cost import layer_flops, slow_flops
from tta_bench_methods.head.fwl.layer import FAST, FastWeightLayer
from tta_bench_methods.head.fwl.precondition import Kind
from tta_bench_methods.head.fwl.writes import SlowPass, Writes

NORMALISER = 1024
"""C_ref: the inner loss is the sum of a stream's CE over this number, for every lane and length.

The authors divide by the size of the batch, so that a stream's step depends on its neighbours."""

HALF_LIVES = (512.0, 64.0, 4096.0, 16.0)
"""Half-lives at the start of training, in tokens, as many as there are rates; see `span`."""


@dataclass
class FastWeightOptions(SlowOptions):
    """How slow weights are made; what `tta-bench train fwl:key=value` sets."""

    residual: bool = field(
        default=True,
        metadata={"help": "add the block to h, at first nothing; no: replace h, as in the paper"},
    )
    forget: Literal["learned", "off"] = field(
        default="learned", metadata={"help": "half-lives of what was written; off: as in the paper"}
    )
    rates: int = field(default=1, metadata={"help": "half-lives side by side, 1 to 4"})
    span: float = field(
        default=0.0,
        metadata={
            "help": "how many times the shortest half-life the longest is before training, around "
            "512 tokens; 0: 512, 64, 4096, 16 in turn"
        },
    )
    width: int = field(default=4, metadata={"help": "hidden units, in multiples of the model's d"})
    step: float = field(default=1.0, metadata={"help": "step size eta before training"})
    precondition: Kind = field(
        default="off",
        metadata={
            "help": "the step of a kernel times a learned matrix, or the running inverse second "
            "moment of its inputs"
        },
    )

    def __post_init__(self) -> None:
        if not 1 <= self.rates <= len(HALF_LIVES):
            raise ValueError(f"rates must be 1 to {len(HALF_LIVES)}.")
        if self.forget == "off" and self.rates > 1:
            raise ValueError("rates above 1 need forget=learned.")
        if self.width < 1 or self.step <= 0:
            raise ValueError("width must be at least 1 and step above 0.")
        if self.span and (self.rates < 2 or self.span < 1):
            raise ValueError("span must be at least 1, with rates of 2 or more, or 0.")

    @property
    def half_lives(self) -> tuple[float, ...]:
        """Half-lives before training, in tokens; none where nothing is forgotten."""
        if self.forget == "off":
            return ()
        if not self.span:
            return HALF_LIVES[: self.rates]
        places = (rate / (self.rates - 1) - 0.5 for rate in range(self.rates))
        return tuple(HALF_LIVES[0] * self.span**place for place in places)


class FastWeightHead(Head):
    """A fast weight layer between the body's output h and the unembedding.

    With `residual` y = h + block(x), x = h at unit scale, and the output starts at zero: on a
    pretrained model training begins with that model's own predictions. Without it y = block(h), as
    in the paper, and the body must learn with it.

    The slow pass and the gradients need no state, so that training takes them over a whole segment
    at once (`segment`), and a stream takes them once for reading and writing (`start`, `finish`).
    """

    def __init__(self, hidden_size: int, slow: FastWeightOptions):
        super().__init__()
        # Fast gains and biases of the norm would move h before anything has been learned.
        fast = FAST[:4] if slow.residual else FAST
        self.residual = slow.residual
        self.adapts = slow.fast
        self.layer = FastWeightLayer(
            (hidden_size, slow.width * hidden_size, hidden_size),
            fast if slow.fast else (),
            slow.step,
            slow.half_lives,
            precondition=slow.precondition,
        )
        if slow.residual:
            nn.init.zeros_(self.layer.alpha)

    def fresh_state(self, lanes: int) -> State:
        return self.layer.empty_state(lanes)

    def forward(
        self, hidden: Tensor, labels: Tensor, mask: Tensor, unembedding: Unembedding, state: State
    ) -> tuple[Tensor, State]:
        if not self.adapts:
            return self.slow(hidden).y, {}
        slow = self.slow(hidden)
        writes = self.layer.writes(slow, labels, mask / NORMALISER, unembedding)
        after = self.layer.write(writes, state, mask.sum(1))
        return self.layer.read(slow, writes, state), after

    def segment(
        self,
        hidden: Tensor,
        labels: Tensor,
        mask: Tensor,
        unembedding: Unembedding,
        chunk: int,
        fresh: Tensor,
        state: State,
    ) -> tuple[Tensor, State]:
        if not self.adapts:
            return self.slow(hidden).y, {}
        x, skip = self.inputs(hidden)
        weights = mask / NORMALISER
        _, fast, after = self.layer(x, labels, weights, unembedding, skip, chunk, fresh, state)
        return fast, after

    def start(
        self, hidden: Tensor, window: Window, unembedding: Unembedding, state: State
    ) -> tuple[Tensor, tuple[SlowPass, Writes] | None]:
        slow = self.slow(hidden)
        if not self.adapts:
            return slow.y, None
        # The label of column i is the input of column i + 1; the last one's is still unknown.
        writes = self.layer.writes(
            slow.at(slice(0, -1)),
            window.chunk_ids[:, 1:],
            window.mask[:, 1:] / NORMALISER,
            unembedding,
        )
        return self.layer.read(slow, writes, state), (slow, writes)

    def finish(
        self,
        memo: tuple[SlowPass, Writes],
        window: Window,
        labels: Tensor,
        unembedding: Unembedding,
        state: State,
    ) -> None:
        slow, writes = memo
        last = (window.scored[:, None] - 1).clamp_min(0)
        weights = (window.scored[:, None] > 0) / NORMALISER
        final = self.layer.writes(slow.at(last), labels.gather(1, last), weights, unembedding)
        self.layer.add(writes.closed(last, final, slow), state, window.scored)

    def flops(self, positions: int, unembedding: float) -> float:
        if not self.adapts:
            return slow_flops(self.layer, positions)
        # The slow pass takes the logits of each position forward and their gradient back.
        return 2 * positions * unembedding + layer_flops(self.layer, positions)

    def streaming_flops(self, positions: int, unembedding: float) -> float:
        return self.flops(positions, unembedding)

    def compile_parts(self) -> None:
        """Compiles what a chunk does; the loop over chunks stays as it is."""
        of_layer = ("slow", "writes", "read", "write", "add")
        for owner, name in ((self, "inputs"), *((self.layer, name) for name in of_layer)):
            setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))

    def slow(self, hidden: Tensor) -> SlowPass:
        """Reads with the slow weights."""
        return self.layer.slow(*self.inputs(hidden))

    def inputs(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """x and what is added to the output."""
        return (unit_scale(hidden), hidden) if self.residual else (hidden, None)
