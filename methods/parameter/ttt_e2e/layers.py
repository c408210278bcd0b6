"""The prime MLPs of a model: read with what each lane has learned, and stepped after a chunk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tta_bench import LanguageModel, Logits, StepShape, UsageError, Window, token_nll
from tta_bench.heads import BodyPatches, State, Unembedding
from tta_bench_methods.parameter.ttt_e2e.descent import descended
from tta_bench_methods.parameter.ttt_e2e.places import norms_of_mlps
from tta_bench_methods.parameter.ttt_e2e.prime import PrimeMLP, PrimeOptions


class PrimeMLPs(BodyPatches):
    """A prime MLP in each of the last blocks; the state of a lane is how far they have moved.

    Gradients need what lies above the lowest of them, and nothing below: the reading that is scored
    is the one that is differentiated, so no block is run twice.

    Attributes:
        options: how they are made.
        rate: size of a step; 0: they do not step, and no lane has a state.
        lowest_gain: the name of the gain of the norm behind the lowest of them.

    Args:
        model: whose blocks they stand in.
        slow: how they are made.

    Raises:
        UsageError: it has not so many blocks, or blocks without a place for them.
    """

    second_order = True

    def __init__(self, model: LanguageModel, slow: PrimeOptions):
        places = norms_of_mlps(model)
        blocks = slow.blocks or -(-len(places) // 4)
        if blocks > len(places):
            raise UsageError(f"blocks={blocks}: {model.name} has {len(places)} blocks.")
        width = model.config.hidden_size
        inner = slow.width or getattr(model.config, "intermediate_size", None) or 4 * width
        super().__init__({path: PrimeMLP(width, inner) for path in places[-blocks:]})
        self.options = slow
        self.rate = slow.rate if slow.fast else 0.0
        norm = model.net.get_submodule(self.paths[0])
        self.lowest_gain = f"{self.paths[0]}.{next(name for name, _ in norm.named_parameters())}"

    @property
    def trained(self) -> bool:
        """Whether it is being trained, so that steps are differentiated in turn."""
        return self.patches[0].gate.requires_grad

    def attach(self, model: LanguageModel) -> LanguageModel:
        own = super().attach(model)
        blocks = list(own.layers)[-len(self.paths) :]
        for layer, path, patch in zip(blocks, self.paths, self.patches, strict=True):
            # Of a module without the patch, for what it moves.
            patch.norm = model.net.get_submodule(path).forward
            layer.forward = partial(_adding, patch, layer.forward)
        return own

    def fresh_state(self, lanes: int) -> State:
        return super().fresh_state(lanes) if self.rate else {}

    def read(  # type: ignore[override]
        self, model: LanguageModel, window: Window, state: State
    ) -> tuple[Logits, tuple[State, Logits]]:
        leaves = {
            name: value if value.requires_grad else value.detach().requires_grad_()
            for name, value in state.items()
        }
        with ExitStack() as stack:
            # Gradients of gradients want more digits than mixed precision leaves, and the control
            # is trained in the same arithmetic.
            stack.enter_context(torch.autocast(model.device.type, enabled=False))
            if leaves:
                stack.enter_context(torch.enable_grad())
            if self.trained:  # other kernels of attention cannot be differentiated twice
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            # As views: the FLOP counter cannot differentiate by a leaf that a module is given.
            given = {name: value.view_as(value) for name, value in leaves.items()}
            hidden, _ = super().read(model, window, given)
        scores = Logits(hidden, model.unembed, model.vocab_size)
        return scores, (leaves, scores)

    def write(
        self, memo: Any, window: Window, labels: Tensor, unembedding: Unembedding, state: State
    ) -> State:
        leaves, scores = memo
        if not leaves:
            return state
        exact = torch.autocast(labels.device.type, enabled=False)
        with torch.enable_grad(), exact:
            nll = token_nll(scores, lambda: labels, window.mask, gradients=True)
            return self.stepped(leaves, nll, window)

    def stepped(self, leaves: State, nll: Tensor, window: Window) -> State:
        """The state after a step on the mean loss of each lane's chunk.

        Args:
            leaves: the state that the chunk was read with, of `read`.
            nll: [B, C], its losses; 0 at padding.
            window: what was read.
        """
        means = nll.sum(1) / window.scored.clamp_min(1)
        return descended(leaves, means, self.rate, self.trained)

    def flops(self, shape: StepShape) -> float:
        adapts = self.rate > 0
        return sum(
            patch.flops(shape.inputs, adapts, lowest=number == 0)
            for number, patch in enumerate(self.patches)
        )


def _adding(patch: PrimeMLP, forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """A block that adds what its prime MLP gave to what it returns."""
    output = forward(*args, **named)
    added = patch.take()
    if added is None:
        return output
    if isinstance(output, tuple):
        return (output[0] + added, *output[1:])
    return output + added
