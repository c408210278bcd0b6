"""`HeadMethod`: streams documents through a head, whether it was trained or set by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tta_bench.contract.method import Method
from tta_bench.errors import MethodError
from tta_bench.heads.head import Head
from tta_bench.heads.inner_loss import unembedding_of
from tta_bench.model.scores import Logits
from tta_bench.model.step_shape import StepShape
from tta_bench.model.window import Window


class HeadMethod(Method):
    """Reads the body's output through a head. A subclass makes it in `prepare` and calls `use`."""

    family: ClassVar[str] = "head"
    learns_from_losses: ClassVar[bool] = False
    head: Head

    def use(self, head: Head) -> None:
        """Takes the head into service: float32 at least, on the model's device, no gradients."""
        # Sums over a whole document need float32 where the model is bfloat16.
        self.dtype = torch.promote_types(self.model.dtype, torch.float32)
        self.head = head.to(self.model.device, self.dtype).requires_grad_(False)
        self.unembedding = unembedding_of(self.model)
        self._memo: Any = None

    def init_state(self) -> dict[str, Tensor]:
        if not self.head.adapts:
            return {}
        return {name: value[0] for name, value in self.head.fresh_state(1).items()}

    def compile(self) -> None:
        self.head.compile_parts()

    def score(self, window: Window) -> Logits:
        below = self.below.score(window)
        if below.hidden is None or below.unembed is None:
            raise MethodError(
                f"{self.name} is a head: it reads hidden states, and what stands below it gives "
                "probabilities alone; put it below."
            )
        hidden = below.hidden.to(self.dtype)
        outputs, self._memo = self.start(hidden, window)
        return Logits(outputs.to(self.model.dtype), below.unembed, self.model.vocab_size)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        memo, self._memo = self._memo, None  # a chunk's memory must not lie beside the next one's
        if self.head.adapts:
            self.finish(memo, window, targets)

    def start(self, hidden: Tensor, window: Window) -> tuple[Tensor, Any]:
        """Outputs [B, C, d] of hidden states [B, C, d], and what `finish` needs."""
        return self.head.start(hidden, window, self.unembedding, self.state)

    def finish(self, memo: Any, window: Window, targets: Tensor) -> None:
        """Writes into the state what the chunk leaves behind; see `Head.finish`."""
        self.head.finish(memo, window, targets, self.unembedding, self.state)

    def flops(self, shape: StepShape) -> float | None:
        own = self.head.streaming_flops(shape.scored, self.cost.unembed(1))
        return None if own is None else self.below.flops(shape, own)

    def invisible_flops(self, shape: StepShape) -> float:
        return self.below.invisible_flops(shape) + self.head.invisible_flops(shape.scored)
