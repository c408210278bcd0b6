"""Fast weight layers as a head between body and unembedding: the module, and its stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench import LanguageModel, Logits, Method, StepShape, Window
from tta_bench_methods.head.fwl.inner_loss import Unembedding
from tta_bench_methods.head.fwl.layer import FAST, FastWeightLayer

NORMALISER = 1024
"""C_ref: the inner loss is the sum of a stream's CE over this number, for every lane and length.

The authors divide by the size of the batch, so that a stream's step depends on its neighbours."""

HALF_LIVES = (512.0, 64.0, 4096.0, 16.0)
"""Half-lives at the start of training, in tokens, as many as there are rates."""


SOFT = 0.01
"""Entries below this share of a hidden state's RMS count as linear, not as roots."""


@dataclass
class SlowOptions:
    """How slow weights are made; what `tta-bench train fwl:key=value` sets."""

    residual: bool = field(
        default=True,
        metadata={"help": "add the block to h, at first nothing; no: replace h, as in the paper"},
    )
    forget: Literal["learned", "off"] = field(
        default="learned", metadata={"help": "half-lives of what was written; off: as in the paper"}
    )
    rates: int = field(default=1, metadata={"help": "half-lives side by side, 1 to 4"})
    fast: bool = field(
        default=True, metadata={"help": "no: the control of the same size, which does not adapt"}
    )
    width: int = field(default=4, metadata={"help": "hidden units, in multiples of the model's d"})
    step: float = field(default=1.0, metadata={"help": "step size eta before training"})

    def __post_init__(self) -> None:
        if not 1 <= self.rates <= len(HALF_LIVES):
            raise ValueError(f"rates must be 1 to {len(HALF_LIVES)}.")
        if self.forget == "off" and self.rates > 1:
            raise ValueError("rates above 1 need forget=learned.")
        if self.width < 1 or self.step <= 0:
            raise ValueError("width must be at least 1 and step above 0.")


class FastWeightHead(nn.Module):
    """A fast weight layer between the body's output h and the unembedding.

    With `residual` y = h + block(x), x = h at unit scale, and the output starts at zero: on a
    pretrained model training begins with that model's own predictions. Without it y = block(h), as
    in the paper, and the body must learn with it.
    """

    def __init__(self, hidden_size: int, slow: SlowOptions):
        super().__init__()
        # Fast gains and biases of the norm would move h before anything has been learned.
        fast = FAST[:4] if slow.residual else FAST
        self.residual = slow.residual
        self.layer = FastWeightLayer(
            (hidden_size, slow.width * hidden_size, hidden_size),
            fast if slow.fast else (),
            slow.step,
            HALF_LIVES[: slow.rates] if slow.forget == "learned" else (),
        )
        if slow.residual:
            nn.init.zeros_(self.layer.alpha)

    def empty_state(self, lanes: int) -> dict[str, Tensor]:
        """The state of streams of which nothing was read."""
        return self.layer.empty_state(lanes)

    def compile_parts(self) -> None:
        """Compiles what a chunk does; the loop over chunks stays as it is."""
        of_layer = ("slow", "writes", "read", "write", "add")
        for owner, name in ((self, "inputs"), *((self.layer, name) for name in of_layer)):
            setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))

    def inputs(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """x and what is added to the output."""
        return (unit_scale(hidden), hidden) if self.residual else (hidden, None)

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor,
        mask: Tensor,
        unembedding: Unembedding,
        chunk: int,
        fresh: Tensor,
        state: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs for the unembedding and the state after; see `tta_bench.Method.slow_weights`."""
        x, skip = self.inputs(hidden)
        if not self.layer.fast:
            return self.layer.slow(x, skip).y, {}
        weights = mask / NORMALISER
        _, fast, after = self.layer(x, labels, weights, unembedding, skip, chunk, fresh, state)
        return fast, after


class FastWeightStream(Method):
    """Streams documents through a head. A subclass's `prepare` makes it."""

    family: ClassVar[str] = "head"
    graphs = True
    head: FastWeightHead
    adapts = True

    def use(self, head: FastWeightHead) -> None:
        """Takes the head into service."""
        # Sums over a whole document need float32 where the model is bfloat16.
        self.dtype = torch.promote_types(self.model.dtype, torch.float32)
        self.head = head.to(self.model.device, self.dtype).requires_grad_(False)
        self.layer = self.head.layer
        self.adapts = len(self.layer.fast) > 0
        self.unembedding = plain_unembedding(self.model)

    def init_state(self) -> dict[str, Tensor]:
        """The sums of the fast tensors' gradients."""
        if not self.adapts:
            return {}
        return {name: value[0] for name, value in self.layer.empty_state(1).items()}

    def compile(self) -> None:
        self.head.compile_parts()

    def score(self, window: Window) -> Logits:
        hidden = self.model.hidden(window).to(self.dtype)
        slow = self.layer.slow(*self.head.inputs(hidden))
        y = slow.y
        if self.adapts:
            # The label of column i is the input of column i + 1; the last one's is still unknown.
            writes = self.layer.writes(
                slow.at(slice(0, -1)),
                window.chunk_ids[:, 1:],
                window.mask[:, 1:] / NORMALISER,
                self.unembedding,
            )
            self._chunk = slow, writes
            y = self.layer.read(slow, writes, self.state)
        return Logits(y.to(self.model.dtype), self.model.unembed, self.model.vocab_size)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if not self.adapts:
            return
        slow, writes = self._chunk
        del self._chunk  # a chunk's activations must not lie beside those of the next
        last = (window.scored[:, None] - 1).clamp_min(0)
        weights = (window.scored[:, None] > 0) / NORMALISER
        final = self.layer.writes(slow.at(last), targets.gather(1, last), weights, self.unembedding)
        self.layer.add(writes.closed(last, final, slow), self.state, window.scored)

    def flops(self, shape: StepShape) -> float:
        cost = self.cost
        if not self.adapts:
            return cost.forward(shape) + self.layer.slow_flops(shape.scored)
        # The slow pass takes the logits of each position forward and their gradient back.
        vocabulary = 2 * cost.unembed(shape.scored)
        return cost.forward(shape) + vocabulary + self.layer.flops(shape.scored)


def plain_unembedding(model: LanguageModel) -> Unembedding:
    """The matrix E where logits are E h and nothing else, otherwise the model's own function."""
    matrix = model.unembedding
    return (lambda y: model.unembed(y.to(model.dtype))) if matrix is None else matrix


def unit_scale(hidden: Tensor) -> Tensor:
    """About the signed square root of every entry, then RMS 1 over the last dimension.

    Hidden states of pretrained models have a few huge dimensions, which would otherwise make all
    keys alike. Near zero the root is softened: its slope is infinite there.
    """
    width = math.sqrt(hidden.shape[-1])
    unit = F.normalize(hidden, dim=-1) * width
    return F.normalize(unit / (unit.abs() + SOFT).sqrt(), dim=-1) * width
