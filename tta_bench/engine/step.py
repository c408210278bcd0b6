"""One step: a window is scored, the scores become losses, and then the method may learn.

This is the only place where that happens. Documents, FLOP checks, warm-ups, CUDA graphs and the
probes of `tta-bench check` all go through `Step`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.errors import MethodError
from tta_bench.model.precision import float32_products
from tta_bench.model.scores import Scores, as_scores, row_losses, token_nll
from tta_bench.model.synthetic import SyntheticStream

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window


class Step:
    """The rules of a step, applied to one method.

    1. The method gets copies: what it writes to its window, its targets or its losses never reaches
       the tensors that the engine computes and records with.
    2. Targets are read after the method has scored. `token_nll` says what of a large vocabulary is
       computed later. A function that reads them is on the stack before, and the documents lie
       further up: no Python program can hide them from a method that searches for them, but
       `tta-bench check` catches one that does.
    3. The losses to record are set aside before the method learns, and only after that do the keys
       of this window become the carried past.

    Attributes:
        method: the method that scores and learns.
        losses_of: cross-entropy of rows of logits; `row_losses`, or the same function compiled.
    """

    def __init__(self, method: Method):
        self.method = method
        self.losses_of: Callable[[Tensor, Tensor], Tensor] = row_losses

    def __call__(self, window: Window, read_targets: Callable[[], Tensor]) -> Tensor:
        """Takes the step; returns its losses [B, C] in nats, float32, 0 at padding.

        Args:
            window: the inputs of all lanes.
            read_targets: gives the targets [B, C] int64, any valid id at padding; called once.

        Raises:
            MethodError: the method breaks its contract.
        """
        method = self.method
        targets = functools.cache(read_targets)
        with torch.set_grad_enabled(method.gradients), float32_products(method.model.dtype):
            given = window.copy()
            nll = self.losses(self.score(given), targets, window.mask)
            losses = nll.detach().clone()
            self.adapt(given, targets().clone(), nll)
        if window.past is not None:
            window.past.commit(window.lengths)
        return losses

    def score(self, window: Window) -> Scores:
        """What the method predicts of the window's chunk."""
        shape = (window.lanes, window.chunk_size, self.method.model.vocab_size)
        return as_scores(self.method.score(window), shape)

    def losses(self, scores: Scores, read_targets: Callable[[], Tensor], mask: Tensor) -> Tensor:
        """The losses [B, C] of the targets, differentiable if the method asks for gradients."""
        gradients = self.method.gradients
        nll = token_nll(scores, read_targets, mask, gradients, self.losses_of)
        if gradients and not nll.requires_grad:
            raise MethodError("the method asks for gradients but its scores depend on none.")
        return nll

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
