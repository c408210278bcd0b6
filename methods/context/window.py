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

from tta_bench import ContextMethod, LanguageModel, Needs, StepShape, Window, register


@register("window")
class WiderWindow(ContextMethod):
    """No adaptation, a longer context: the frozen model reads the last tokens again."""

    graphs = True
    off: ClassVar[dict[str, object]] = {"context": 0}

    @dataclass
    class Params:
        """How much more is read."""

        context: int = field(default=512, metadata={"help": "tokens left of the chunk"})

        def __post_init__(self) -> None:
            if self.context < 0:
                raise ValueError("context must be at least 0.")

    @classmethod
    def probe_params(cls, params: Params) -> Params:
        return replace(params, context=min(params.context, 24))  # few positions there

    @classmethod
    def needs(cls, params: Params, model: LanguageModel, step: StepShape) -> Needs:
        return Needs(positions=params.context + step.scored if params.context else 0)

    def prepare(self) -> None:
        # A document that a model can read has no more context than the model has positions.
        most = self.model.max_positions
        self.kept = self.params.context if most is None else min(self.params.context, most)

    def init_state(self) -> dict[str, Tensor]:
        """The last inputs [kept], the newest last, and how many of them there are."""
        device = self.model.device
        return {
            "tokens": torch.zeros(self.kept, dtype=torch.int64, device=device),
            "filled": torch.zeros((), dtype=torch.int64, device=device),
        }

    def provide(self, window: Window) -> Window:
        return self._wider(window) if self.params.context else window

    def _wider(self, window: Window) -> Window:
        """The chunk behind the lane's own context, in place of what the protocol shows of it."""
        filled, context = self.state["filled"], self.kept
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
        full = self.kept + chunk
        return full if most is None else min(full, most)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if self.params.context == 0:
            return
        held = torch.cat([self.state["tokens"], window.chunk_ids], dim=1)  # [B, kept + C]
        # The newest inputs of a lane begin where its own chunk's length says.
        places = torch.arange(self.kept, device=held.device)
        self.state["tokens"].copy_(held.gather(1, places + window.scored[:, None]))
        self.state["filled"].add_(window.scored).clamp_(max=self.kept)

    def provided(self, shape: StepShape) -> StepShape:
        if self.params.context == 0:
            return shape
        context = min(self.params.context, shape.start)
        return StepShape(context + shape.scored, shape.scored, 0)


def capturing(tensor: Tensor) -> bool:
    """Whether what is done to this tensor is being captured in a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
