"""`streaming-llm`: attention sinks and the most recent keys, in bounded memory (Xiao et al. 2024).

The chunk attends to the keys and values of the first `sinks` tokens of the document, to those of
the last `recent` tokens before it, and causally to itself. Positions are numbered inside the cache:
the entry in slot j stands at position j, the chunk behind the last entry, so that no position
exceeds sinks + recent + C however long the document is. A model that has learned to rest much of
its attention on the first tokens collapses when a rolling cache drops them; with sinks it does not.

Keys are kept without their rotary positions and turned to those of their slots in every step. Keys
and values are computed once, when their token is read: they know of tokens that were evicted since,
and where a parameter method stands above, they are those of the weights at that time and carry no
gradient. The rectangle of attention always has all slots; those that are still empty are masked.

With chunks of one token it gives the losses of the authors' evaluation
(mit-han-lab/streaming-llm@2e504260, pos_shift on), in which a token sees sinks + recent entries and
itself. With chunks of C tokens the cache is trimmed once per chunk: the token in column c sees c
more recent keys than in the authors' loop, and stands c positions further from the sinks. The
authors' script never clears its cache between documents; here `--reset never` does that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from tta_bench import (
    ContextMethod,
    LaneCache,
    LanguageModel,
    Needs,
    StepShape,
    UsageError,
    Window,
    register,
)
from tta_bench_methods.context.streaming_llm.rotation import carried_by
from tta_bench_methods.context.streaming_llm.slots import Slots


@register("streaming-llm")
class StreamingLLM(ContextMethod):
    """No adaptation, bounded memory: attention sinks and recent keys (Xiao et al. 2024)."""

    graphs = True
    off: ClassVar[dict[str, object]] = {"sinks": 0, "recent": 0}

    @dataclass
    class Params:
        """How many keys are kept."""

        sinks: int = field(default=4, metadata={"help": "first tokens, whose keys stay"})
        recent: int = field(default=512, metadata={"help": "last tokens, whose keys stay for now"})

        def __post_init__(self) -> None:
            if self.sinks < 0 or self.recent < 0:
                raise ValueError("sinks and recent must be at least 0.")

    @classmethod
    def probe_params(cls, params: Params) -> Params:
        return replace(params, recent=min(params.recent, 24))  # so that keys are evicted there

    @classmethod
    def needs(cls, params: Params, model: LanguageModel, step: StepShape) -> Needs:
        kept = params.sinks + params.recent
        if kept == 0:
            return Needs()
        if step.past:
            raise UsageError("it carries keys of its own; leave out --context-mode cache.")
        carried_by(model)
        return Needs(positions=kept + step.scored)

    def prepare(self) -> None:
        # A document that a model can read fills no more slots than the model has positions.
        kept, most = self.params.sinks + self.params.recent, self.model.max_positions
        size = kept if most is None else min(kept, most)
        self.slots = Slots(self.params.sinks, size)
        self._past: LaneCache | None = None

    def init_state(self) -> dict[str, Tensor]:
        """Keys without positions and values, [layers, H, slots, D], and the tokens read so far.

        The entries of a lane stand at the right end, sinks first.
        """
        if self.slots.size == 0:
            return {}
        carried = carried_by(self.model)
        self._rotation = carried.rotation

        def empty(layers: int, heads: int, width: int) -> Tensor:
            shape = (layers, heads, self.slots.size, width)
            return torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)

        return {
            "keys": empty(*carried.keys),
            "values": empty(*carried.values),
            "read": torch.zeros((), dtype=torch.int64, device=self.model.device),
        }

    def provide(self, window: Window) -> Window:
        """The chunk behind the lane's own entries, in place of what the protocol shows of it."""
        if self.slots.size == 0:
            return window
        read = self.state["read"]
        keys = self._rotation.turn(self.state["keys"], self.slots.places(read).clamp(min=0))
        layers = zip(keys.unbind(1), self.state["values"].unbind(1), strict=True)
        self._past = LaneCache.of(list(layers), self.slots.held(read))
        return Window(window.chunk_ids, window.scored, window.scored, window.chunk_size, self._past)

    @torch.no_grad()
    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        """Takes in the keys and values of the chunk; what no longer fits is evicted."""
        if self._past is None:
            return
        taken, self._past = self._past.taken(), None
        before, after = self.state["read"], self.state["read"] + window.scored
        fresh = torch.stack([keys[:, :, self.slots.size :] for keys, _ in taken], dim=1)
        columns = torch.arange(fresh.shape[-2], device=before.device)
        fresh = self._rotation.turn_back(fresh, self.slots.held(before)[:, None] + columns)
        keys = torch.cat([self.state["keys"], fresh], dim=-2)
        values = torch.stack([values for _, values in taken], dim=1)
        sources = self.slots.sources(before, after)[:, None, None, :, None]
        for name, both in (("keys", keys), ("values", values)):
            index = sources.expand(*both.shape[:3], -1, both.shape[-1])
            self.state[name].copy_(both.gather(-2, index))
        self.state["read"].copy_(after)

    def provided(self, shape: StepShape) -> StepShape:
        if self.slots.size == 0:
            return shape
        return StepShape(shape.scored, shape.scored, self.slots.size)
