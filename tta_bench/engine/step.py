"""One step: a window is scored, the scores become losses, and then the method may learn.

This is the only place where that happens. Documents, FLOP checks, warm-ups, CUDA graphs and the
probes of `tta-bench check` all go through `Step`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.errors import MethodError
from tta_bench.model.precision import float32_products
from tta_bench.model.scores import Scored, Scores, as_scores, row_scored, token_scored
from tta_bench.model.synthetic import SyntheticStream

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window


class Step:
    """The rules of a step, applied to one method.

    1. The method gets copies: what it writes to its window, its targets or its losses never reaches
       the tensors that the engine computes and records with.
    2. Targets are read after the method has scored. `token_scored` says what of a large vocabulary
       is computed later. A function that reads them is on the stack before, and the documents lie
       further up: no Python program can hide them from a method that searches for them, but
       `tta-bench check` catches one that does.
    3. The losses to record are set aside before the method learns, and only after that do the keys
       of this window become the carried past.

    Attributes:
        method: the method that scores and learns.
        scored_of: what is kept of rows; `row_scored`, or the same function compiled.
    """

    def __init__(self, method: Method):
        self.method = method
        self.scored_of: Callable[..., Scored] = row_scored

    def __call__(self, window: Window, read_targets: Callable[[], Tensor]) -> Scored:
        """Takes the step; returns its losses, and which targets were the most probable tokens.

        Args:
            window: the inputs of all lanes.
            read_targets: gives the targets [B, C] int64, any valid id at padding; called once.

        Raises:
            MethodError: the method breaks its contract.
        """
        targets = functools.cache(read_targets)
        with self._modes():
            given = window.copy()
            scored = self.scored(self.score(given), targets, window.mask)
            kept = Scored(scored.nll.detach().clone(), scored.top1)
            self.adapt(given, targets().clone(), scored.nll)
        if window.past is not None:
            window.past.commit(window.lengths)
        return kept

    def peek(self, window: Window, read_targets: Callable[[], Tensor]) -> Tensor:
        """The losses [B, C] of a window that the method scores and does not learn from.

        What scoring alone leaves in the method is the caller's matter (`Memento`).
        """
        with self._modes():
            scored = self.scored(self.score(window.copy()), read_targets, window.mask)
            return scored.nll.detach().clone()

    def _modes(self) -> ExitStack:
        """Gradients where the method asks for them, and products of the model's precision."""
        held = ExitStack()
        held.enter_context(torch.set_grad_enabled(self.method.gradients))
        held.enter_context(float32_products(self.method.model.dtype))
        return held

    def score(self, window: Window) -> Scores:
        """What the method predicts of the window's chunk."""
        shape = (window.lanes, window.chunk_size, self.method.model.vocab_size)
        return as_scores(self.method.score(window), shape)

    def scored(self, scores: Scores, read_targets: Callable[[], Tensor], mask: Tensor) -> Scored:
        """What is kept of the targets; losses are differentiable if the method asks for it."""
        gradients = self.method.gradients
        scored = token_scored(scores, read_targets, mask, gradients, self.scored_of)
        if gradients and not scored.nll.requires_grad:
            raise MethodError("the method asks for gradients but its scores depend on none.")
        return scored

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        """Lets the method learn from the chunk that was just scored."""
        self.method.adapt(window, targets, nll)


def synthetic_steps(method: Method, shape: StepShape, seed: int = 0) -> Callable[[], None]:
    """A function that takes one more step of this shape, in all lanes, on random tokens."""
    step = Step(method)
    stream = SyntheticStream(method.model, shape, method.lanes, seed)

    def take() -> None:
        window, targets = stream.window()
        step(window, lambda: targets)
        stream.advance()

    return take
