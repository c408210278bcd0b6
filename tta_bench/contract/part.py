"""`Part`: a method of a stack as the one above it sees it, and as it learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.contract.context import ContextMethod
from tta_bench.model.scores import Scores, as_scores, kept_for_backward, token_nll

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window


class Part:
    """A lower method of a stack. It is scored once a step, and learns from what that gave.

    It gets copies, as the stack does from the engine: what it writes to its window or its targets
    does not reach the methods above.

    A head above computes logits of its own: those of this part are computed only where it learns
    from their losses, which costs an unembedding more. An output method above computes this part's
    rows anyway: they are kept until the part has learned from them.

    Attributes:
        method: the method.
        asked: whether the method above has read it in this step.
    """

    def __init__(self, method: Method, above: type[Method]):
        self.method = method
        self.asked = False
        self._learns = method.learns_from_losses
        self._unembeds_again = self._learns and above.family == "head"
        self._scores: _Kept | None = None

    def score(self, window: Window) -> Scores:
        """Its distributions for the chunk, made under the gradients that it asks for."""
        self.asked = True
        shape = (window.lanes, window.chunk_size, self.method.model.vocab_size)
        gradients = self.method.gradients
        with torch.set_grad_enabled(gradients):
            inner = as_scores(self.method.score(window.copy()), shape)
        whole = gradients and self._learns and kept_for_backward(shape, window.input_ids.device)
        self._scores = _Kept(inner, gradients, self._learns, whole)
        return self._scores

    def provide(self, window: Window) -> Window:
        """What the model reads for this window; a method that is no context method leaves it."""
        if not isinstance(self.method, ContextMethod):
            return window
        self.asked = True
        return self.method.provide(window.copy())

    def provided(self, shape: StepShape) -> StepShape:
        """The shape of what `provide` returns."""
        return self.method.provided(shape) if isinstance(self.method, ContextMethod) else shape

    def beside(self, shape: StepShape) -> float:
        """What a context method costs beside reading what it provides."""
        whole = self.method.flops(shape) if isinstance(self.method, ContextMethod) else None
        return 0.0 if whole is None else whole - self.method.cost.forward(self.provided(shape))

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        """Lets the method learn from its own losses, or where it made none from the stack's.

        Args:
            window: the window that was scored.
            targets: [B, C].
            nll: [B, C], the losses of the stack.
        """
        scores, self._scores, self.asked = self._scores, None, False
        with torch.set_grad_enabled(self.method.gradients):
            if scores is not None and self._learns:
                wanted = self.method.gradients
                nll = token_nll(scores, lambda: targets, window.mask, wanted)
            self.method.adapt(window.copy(), targets.clone(), nll)

    def flops(self, shape: StepShape) -> float | None:
        """FLOPs of the method and what stands below it."""
        flops = self.method.flops(shape)
        if flops is None or not self._unembeds_again:
            return flops
        return flops + self.method.cost.unembed(shape.scored)

    def invisible_flops(self, shape: StepShape) -> float:
        """The part of `flops` that PyTorch's counter cannot see."""
        return self.method.invisible_flops(shape)


class _Kept(Scores):
    """Scores whose rows are computed under their own gradients, and once where they are kept.

    Args:
        inner: the scores.
        gradients: whether a backward pass goes through them.
        keep: whether rows are kept.
        whole: whether all rows are computed at once, whatever slices are asked for. What learns
            by gradients asks for all that can be kept for a backward pass in one piece, after the
            method above has asked for it in slices.
    """

    def __init__(self, inner: Scores, gradients: bool, keep: bool, whole: bool):
        super().__init__(*inner.shape)
        self.normalised = inner.normalised
        self.hidden = inner.hidden
        self.unembed = inner.unembed
        self._inner = inner
        self._gradients = gradients
        self._rows: dict[tuple[int, int], Tensor] | None = {} if keep else None
        self._whole = whole

    def rows(self, start: int, stop: int) -> Tensor:
        if self._whole:
            return self._computed(0, self.shape[1])[:, start:stop]
        return self._computed(start, stop)

    def _computed(self, start: int, stop: int) -> Tensor:
        kept = None if self._rows is None else self._rows.get((start, stop))
        if kept is not None:
            return kept
        with torch.set_grad_enabled(self._gradients):
            rows = self._inner.rows(start, stop)
        if self._rows is not None:
            self._rows[start, stop] = rows
        return rows
