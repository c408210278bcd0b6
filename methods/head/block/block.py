"""The block between body and unembedding in which every trained memory stands.

    x = unit_scale(h)                    q, k = W_q x, W_k x, each head at unit length
    v = W_v x + W_l l                    l: what the label says, see `BlockOptions.labels`
    r = memory(q, k, v, x)               y = h + tanh(a) W_o (g level(r))

The gate tanh(a), a vector from 0.1, is that of the one-minute-video paper (Dalal et al. 2025, arXiv
2504.05298), and W_o begins small: training begins about with the model's own predictions, and the
memory gets a gradient at once. `level` brings the reads of each head to RMS 1 as far as they lie
above a learned floor.

With labels the value at s carries the label of s, which is the input of s + 1: position t reads
what was written at s < t. `labels=error` is -loss_gradient(h, y): what the model below lacked, in
the direction of the label and away from what it expected. Heads differ by their memory alone, so
that a table of them compares memories.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.heads import Head, SlowOptions, State, Unembedding, loss_gradient, renewed
from tta_bench_methods.head.block.memory import FastMemory
from tta_bench_methods.head.block.scale import level, unit_scale

GATE = 0.1
"""a at the start of training."""

OUTPUT = 0.02
"""Standard deviation of W_o at the start of training."""

LABEL_FLOOR = 1e-4
"""Floor of the label's part at the start of training, as a mean square. Entries of unembeddings
have an RMS of about 0.1, so that surprises come to unit size and what was predicted well does not.
"""

READ_FLOOR = 0.1
"""Floor of the reads at the start of training; values have a mean square of about 1."""


@dataclass
class BlockOptions(SlowOptions):
    """How the block is made; a memory's own options derive from it."""

    labels: Literal["error", "embedding", "no"] = field(
        default="error",
        metadata={
            "help": "what a value says of the label: the error of the model below, the label's "
            "embedding, or no: values from inputs alone, read at once"
        },
    )
    heads: int = field(default=4, metadata={"help": "memories side by side"})
    width: int = field(default=64, metadata={"help": "of the keys and values of a head"})

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1:
            raise ValueError("heads and width must be at least 1.")


class FastBlock(Head):
    """The block around a memory.

    Args:
        hidden_size: d.
        slow: how it is made.
        memory: of `slow.heads` heads of `slow.width`.
    """

    def __init__(self, hidden_size: int, slow: BlockOptions, memory: FastMemory):
        super().__init__()
        inner = slow.heads * slow.width
        self.adapts = slow.fast
        self.labels = slow.labels
        self.learns_from_labels = slow.labels != "no"
        self.heads = slow.heads
        self.query, self.key, self.value = (_projection(hidden_size, inner) for _ in range(3))
        if self.learns_from_labels:
            self.label = _projection(hidden_size, inner)
            self.log_label_floor = nn.Parameter(torch.tensor(LABEL_FLOOR).log())
        self.memory = memory
        self.log_read_floor = nn.Parameter(torch.full((slow.heads,), READ_FLOOR).log())
        self.gain = nn.Parameter(torch.ones(inner))
        self.output = nn.Linear(inner, hidden_size, bias=False)
        nn.init.normal_(self.output.weight, std=OUTPUT)
        self.gate = nn.Parameter(torch.full((hidden_size,), GATE))

    def fresh_state(self, lanes: int) -> State:
        return self.memory.fresh(lanes) if self.adapts else {}

    def forward(
        self, hidden: Tensor, labels: Tensor, mask: Tensor, unembedding: Unembedding, state: State
    ) -> tuple[Tensor, State]:
        if not self.adapts:
            return self._unchanging(hidden), {}
        written = self.inputs(hidden, self._of_labels(hidden, labels, unembedding))
        reads, after = self._remembered(written, mask, state)
        return self.joined(hidden, reads), after

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
        """As in `Head`; all but the memory reads the whole segment at once."""
        if not self.adapts:
            return self._unchanging(hidden), {}
        written = self.inputs(hidden, self._of_labels(hidden, labels, unembedding))
        start, pieces = self.memory.fresh(len(hidden)), []
        for number, first in enumerate(range(0, hidden.shape[1], chunk)):
            part = slice(first, first + chunk)
            state = renewed(state, start, fresh[:, number])
            here = tuple(value[:, part] for value in written)
            reads, state = self._remembered(here, mask[:, part], state)
            pieces.append(reads)
        return self.joined(hidden, torch.cat(pieces, dim=1)), state

    def inputs(
        self, hidden: Tensor, of_labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v [B, T, H, w] and x [B, T, d].

        Args:
            hidden: [B, T, d].
            of_labels: [B, T, d], what the labels say; None: nothing.
        """
        x = unit_scale(hidden)
        q, k = (self._by_head(part(x), unit=True) for part in (self.query, self.key))
        v = self.value(x)
        if of_labels is not None:
            v = v + self.label(level(of_labels, self.log_label_floor))
        q, k, v = (part.to(hidden.dtype) for part in (q, k, self._by_head(v)))
        return q, k, v, x

    def joined(self, hidden: Tensor, reads: Tensor) -> Tensor:
        """y [B, T, d], from h and the reads [B, T, H, w]."""
        read = level(reads, self.log_read_floor).flatten(2) * self.gain
        return hidden + self.gate.tanh() * self.output(read)

    def flops(self, positions: int, unembedding: float) -> float:
        layer = self.output.weight.numel()
        if not self.adapts:  # queries and outputs
            return 2.0 * positions * 2 * layer + self.memory.frozen_flops(positions)
        products = 2.0 * positions * (4 + self.learns_from_labels) * layer
        if self.labels == "error":  # logits and their gradient
            products += 2 * positions * unembedding
        return products + self.memory.flops(positions)

    def invisible_flops(self, positions: int) -> float:
        if not self.adapts:
            return 0.0
        last = self.memory.invisible_flops(1) if self.learns_from_labels else 0.0
        return self.memory.invisible_flops(positions) + last

    def compile_parts(self) -> None:
        """Compiles what a chunk does; the loop over chunks stays as it is."""
        for name in ("inputs", "joined"):
            setattr(self, name, torch.compile(getattr(self, name), dynamic=False))
        self.memory.compile_parts()

    def _remembered(
        self, written: tuple[Tensor, ...], mask: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Reads and state after. Not in bfloat16: sums of a document, and systems to be solved."""
        with torch.autocast(mask.device.type, enabled=False):
            q, k, v, x = written
            return self.memory(q, k, v, x, mask, state, self.learns_from_labels)

    def _unchanging(self, hidden: Tensor) -> Tensor:
        """The control: it reads the learned state of a document's start, and no other."""
        q = self._by_head(self.query(unit_scale(hidden)), unit=True)
        return self.joined(hidden, self.memory.frozen(q, self.memory.fresh(len(hidden))))

    def _of_labels(self, hidden: Tensor, labels: Tensor, unembedding: Unembedding) -> Tensor | None:
        """[B, T, d], before it is scaled; None where labels are not used."""
        if self.labels == "no":
            return None
        if self.labels == "error":
            ones = torch.ones_like(labels, dtype=hidden.dtype)
            return -loss_gradient(hidden, labels, ones, unembedding)
        assert isinstance(unembedding, Tensor)  # `FastMethod` refuses other models
        return F.embedding(labels, unembedding).to(hidden.dtype)

    def _by_head(self, projected: Tensor, unit: bool = False) -> Tensor:
        """[B, T, H, w]."""
        parted = projected.unflatten(2, (self.heads, -1))
        return F.normalize(parted, dim=-1) if unit else parted


def _projection(hidden_size: int, inner: int) -> nn.Linear:
    """A map of x whose outputs have unit size, since x has."""
    layer = nn.Linear(hidden_size, inner, bias=False)
    nn.init.normal_(layer.weight, std=hidden_size**-0.5)
    return layer
