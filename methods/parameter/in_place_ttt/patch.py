"""In-Place TTT on a model: what stands on each down projection that is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tta_bench import LanguageModel, StepShape, Window
from tta_bench.heads import BodyPatches, Patch, SlowOptions, State
from tta_bench_methods.parameter.in_place_ttt.writes import (
    TAPS,
    products,
    read_and_write,
    unwritten,
)

DIAGONAL = 0.02
"""Standard deviation of the diagonal of P at the start of training, as the authors have it."""


@dataclass
class InPlaceOptions(SlowOptions):
    """Which projections are written, and how."""

    every: int = field(default=6, metadata={"help": "blocks 0, N, 2 N, ... are written"})
    chunk: int = field(default=256, metadata={"help": "tokens that are written at once"})
    rate: float = field(default=0.003, metadata={"help": "size of a step"})
    targets: Literal["hidden", "embedding"] = field(
        default="hidden",
        metadata={"help": "what values are made of: the input of the MLP, or of the model"},
    )
    over: Literal["mean", "sum"] = field(
        default="mean",
        metadata={
            "help": "what is read of the chunks written: their mean, or, as in the paper, "
            "their sum, which grows with the document"
        },
    )

    def __post_init__(self) -> None:
        if self.every < 1 or self.chunk < 1:
            raise ValueError("every and chunk must be at least 1.")
        if self.rate <= 0:
            raise ValueError("rate must be above 0.")


class InPlacePatch(Patch):
    """y = W z + D z / n, with D written as in `writes`; `added` and `own` sum |D z / n|^2, |W z|^2.

    n is the number of chunks in D (of `over=sum` 1). Units have a mean far from 0, so that D z
    grows as the document does: what helps after a thousand tokens drowns W z after a million, and
    training on documents of both lengths finds no size of P that suits them.

    The control (`fast=no`) has the same parameters and reads no document: y = W z +
    (sum of the taps * t) P, at rate 1, since it adds no sum over a document.

    Args:
        inner: m, the width of z.
        width: d, the width of y and of the targets.
        slow: how it is made.
    """

    def __init__(self, inner: int, width: int, slow: InPlaceOptions):
        super().__init__()
        self.adapts, self.chunk, self.rate = slow.fast, slow.chunk, slow.rate if slow.fast else 1.0
        self.mean = slow.over == "mean"
        self.inner, self.width = inner, width
        self.kernel = nn.Parameter(torch.zeros(width, TAPS))
        self.projection = nn.Parameter(torch.diag(DIAGONAL * torch.randn(width)))
        self.window: Window | None = None  # that is being read; None: it rests
        self.targets: Tensor | None = None  # [B, L, d], of that window

    def fresh_state(self, lanes: int) -> State:
        if not self.adapts:
            return {}
        nothing = self.kernel.new_zeros(lanes)
        state = unwritten(lanes, self.projection, self.inner)
        return state | {
            "chunks": torch.zeros_like(state["place"]),
            "added": nothing,
            "own": nothing,
        }

    def forward(
        self, inputs: Tensor, output: Tensor, mask: Tensor, state: State
    ) -> tuple[Tensor, State]:
        assert self.window is not None
        assert self.targets is not None
        # Not in bfloat16, in which a sum over a document would stand still.
        with torch.autocast(inputs.device.type, enabled=False):
            units, targets = (x.to(self.kernel.dtype) for x in (inputs, self.targets))
            projection = self.rate * self.projection
            if not self.adapts:
                added = (self.kernel.sum(1) * targets) @ projection
                return output + added.to(output.dtype), {}
            window, known = self.window, units @ state["seen"].mT
            reads, after = read_and_write(
                window.chunk(units),
                window.chunk(targets),
                window.chunk(known),
                window.scored,
                state,
                self.kernel,
                projection,
                self.chunk,
            )
            chunks, after["chunks"] = self._chunks(state, reads.shape[1], window.scored)
            if self.mean:
                reads = reads / chunks.clamp_min(1)[..., None]
                known = known / state["chunks"].clamp_min(1)[:, None, None]
            added = torch.where(mask[..., None], _at_inputs(reads, window), known)
            with torch.no_grad():
                for name, values in (("added", added), ("own", output.to(added.dtype))):
                    squares = values.square().sum(-1).where(mask, 0)
                    after[name] = state[name] + squares.sum(1)
        return output + added.to(output.dtype), after

    def _chunks(self, state: State, tokens: int, count: Tensor) -> tuple[Tensor, Tensor]:
        """How many each of the next tokens [B, T] reads, and how many there are after `count`."""
        places = torch.arange(tokens, device=count.device) + state["place"][:, None]
        before = state["chunks"]
        complete = (state["place"] + count).div(self.chunk, rounding_mode="floor")
        return before[:, None] + places.div(self.chunk, rounding_mode="floor"), before + complete

    @torch.compiler.disable
    def note(self, hidden: Tensor) -> None:
        """Takes the input of the MLP as targets, unless it has others."""
        if self.targets is None:
            self.targets = hidden

    def flops(self, shape: StepShape) -> float:
        """FLOPs of one lane's step."""
        if not self.adapts:
            return 2.0 * shape.inputs * self.width**2
        written = products(shape.scored, self.inner, self.width, self.chunk)
        return 2.0 * (shape.inputs * self.inner * self.width + written)


class InPlaceLayers(BodyPatches):
    """The patches of a model, and the targets of each.

    Args:
        patches: by the names of down projections; the module around one is its MLP.
        slow: how they are made.
    """

    def __init__(self, patches: Mapping[str, InPlacePatch], slow: InPlaceOptions):
        super().__init__(patches)
        self.of_embeddings = slow.targets == "embedding"

    def attach(self, model: LanguageModel) -> LanguageModel:
        own = super().attach(model)
        for path, patch in zip(self.paths, self.patches, strict=True):
            mlp = own.net.get_submodule(path.rpartition(".")[0])
            mlp.forward = partial(_noting, patch, mlp.forward)
        return own

    def read(self, model: LanguageModel, window: Window, state: State) -> tuple[Tensor, State]:
        embed = model.net.get_input_embeddings()
        self._show(window, embed(window.input_ids) if self.of_embeddings else None)
        try:
            return super().read(model, window, state)
        finally:
            self._show(None, None)

    def flops(self, shape: StepShape) -> float:
        return sum(patch.flops(shape) for patch in self.patches)

    def _show(self, window: Window | None, targets: Tensor | None) -> None:
        for patch in self.patches:
            patch.window, patch.targets = window, targets


def _noting(
    patch: InPlacePatch, forward: Callable[..., Any], hidden: Tensor, *rest: Any, **named: Any
) -> Any:
    patch.note(hidden)
    return forward(hidden, *rest, **named)


def _at_inputs(values: Tensor, window: Window) -> Tensor:
    """[B, L, ...] at the inputs, of values [B, C, ...] at the scored positions; else any."""
    inputs = torch.arange(window.input_ids.shape[1], device=values.device)
    columns = inputs - (window.lengths - window.scored)[:, None]
    columns = columns.clamp(0, values.shape[1] - 1)
    return values.gather(1, columns[..., None].expand(-1, -1, values.shape[2]))
