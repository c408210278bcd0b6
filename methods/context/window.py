"""`window`: no adaptation, but more context: the control that every gain must be held against.

The last `context` tokens before the chunk are read again with it, so that the frozen model sees
a window of context + chunk. The same as `none` under the protocol `--context N --context-mode
recompute`, but as a row of the same table: spending FLOPs on context is what adaptation competes
with. The state of a lane is the tokens themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from tta_bench import Method, Scores, StepShape, UsageError, Window, register


@register("window")
class WiderWindow(Method):
    """No adaptation, a longer context: the frozen model reads the last tokens again."""

    family = "context"
    graphs = True
    off: ClassVar[dict[str, object]] = {"context": 0}

    @dataclass
    class Params:
        """How much more is read."""

        context: int = field(default=1024, metadata={"help": "tokens left of the chunk"})

        def __post_init__(self) -> None:
            if self.context < 0:
                raise ValueError("context must be at least 0.")

    @classmethod
    def probe_params(cls, params: Params) -> Params:
        return replace(params, context=min(params.context, 24))  # few positions there

    def prepare(self) -> None:
        most = self.model.max_positions
        if most is not None and self.params.context >= most:
            raise UsageError(
                f"window: context={self.params.context} does not fit into the {most} positions of "
                f"{self.model.name}; choose a smaller one."
            )

    def init_state(self) -> dict[str, Tensor]:
        """The last inputs [context], the newest last, and how many of them there are."""
        device = self.model.device
        return {
            "tokens": torch.zeros(self.params.context, dtype=torch.int64, device=device),
            "filled": torch.zeros((), dtype=torch.int64, device=device),
        }

    def score(self, window: Window) -> Scores:
        return self.model.logits(self._wider(window) if self.params.context else window)

    def _wider(self, window: Window) -> Window:
        """The chunk behind the lane's own context, in place of what the protocol shows of it."""
        filled, context = self.state["filled"], self.params.context
        lengths = torch.where(window.scored > 0, filled + window.scored, 0)
        columns = torch.arange(self._width(lengths, window.chunk_size), device=lengths.device)
        both = torch.cat([self.state["tokens"], window.chunk_ids], dim=1)
        places = (context - filled[:, None] + columns).clamp(max=both.shape[1] - 1)
        ids = both.gather(1, places).masked_fill(columns >= lengths[:, None], 0)
        return Window(ids, lengths, window.scored, window.chunk_size)

    def _width(self, lengths: Tensor, chunk: int) -> int:
        """Columns read: what is filled, so that a document's start costs no more than it must.

        A CUDA graph has one shape and cannot ask what is filled: while one is captured, it is
        all that can be. What is too much is padding right of every lane's inputs.
        """
        if not capturing(lengths):
            return int(lengths.max())
        most = self.model.max_positions
        full = self.params.context + chunk
        return full if most is None or self.model.rotary else min(full, most)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if self.params.context == 0:
            return
        held = torch.cat([self.state["tokens"], window.chunk_ids], dim=1)  # [B, context + C]
        # The newest inputs of a lane begin where its own chunk's length says.
        places = torch.arange(self.params.context, device=held.device)
        self.state["tokens"].copy_(held.gather(1, places + window.scored[:, None]))
        self.state["filled"].add_(window.scored).clamp_(max=self.params.context)

    def flops(self, shape: StepShape) -> float:
        if self.params.context == 0:
            return self.cost.forward(shape)
        context = min(self.params.context, shape.start)
        return self.cost.forward(StepShape(context + shape.scored, shape.scored, 0))


def capturing(tensor: Tensor) -> bool:
    """Whether what is done to this tensor is being captured in a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
