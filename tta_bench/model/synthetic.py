"""Windows of random tokens, for counting FLOPs and measuring memory without any document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.model.cache import LaneCache
from tta_bench.model.window import Window

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.step_shape import StepShape

_FILL = 256
"""Tokens read at a time to fill a cache, so that the attention mask stays small."""


class SyntheticStream:
    """Windows of random tokens, all of one shape, over a cache that stays at `shape.past` keys.

    Whoever reads a window commits its keys to `window.past` and then calls `advance`.
    """

    def __init__(self, model: LanguageModel, shape: StepShape, lanes: int = 1, seed: int = 0):
        self.model = model
        self.shape = shape
        self.lanes = lanes
        self._random = torch.Generator().manual_seed(seed)
        self._past = LaneCache(lanes, shape.past, model.device) if shape.past else None
        if self._past is not None:
            model.require_carry()
            self._fill(self._past)

    def window(self) -> tuple[Window, Tensor]:
        """The next window and its targets [B, C]."""
        window = self._window(self.shape.inputs, self.shape.scored)
        return window, self._tokens(self.shape.scored)

    def advance(self) -> None:
        """Puts positions back after a step's commit, so that learned ones never run out."""
        if self._past is not None:
            self._past.positions.fill_(self.shape.past)

    def _fill(self, past: LaneCache) -> None:
        left = self.shape.past
        while left > 0:
            width = min(left, _FILL)
            window = self._window(width, 1)
            with torch.no_grad():
                self.model.logits(window)
            past.commit(window.lengths)
            left -= width

    def _tokens(self, width: int) -> Tensor:
        shape = (self.lanes, width)
        ids = torch.randint(self.model.readable_ids, shape, generator=self._random)
        return ids.to(self.model.device)

    def _window(self, inputs: int, scored: int) -> Window:
        whole = torch.ones(self.lanes, dtype=torch.int64, device=self.model.device)
        ids = self._tokens(inputs)
        return Window(ids, whole * inputs, whole * scored, scored, self._past)
