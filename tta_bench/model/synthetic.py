"""Windows of random tokens: for FLOPs, memory and warm-up, none of which may see a document."""

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
"""Tokens read at a time to fill a cache, so that the mask of a long past stays small."""


class SyntheticStream:
    """Windows of random tokens, all of one shape, over a cache that stays at `shape.past` keys."""

    def __init__(self, model: LanguageModel, shape: StepShape, lanes: int = 1, seed: int = 0):
        self.model = model
        self.shape = shape
        self.lanes = lanes
        self._random = torch.Generator().manual_seed(seed)
        self._past = LaneCache(lanes, shape.past, model.device) if shape.past else None
        left = shape.past
        while left > 0:
            piece = min(left, _FILL)
            with torch.no_grad():
                model.logits(self._window(piece, 1))
            self._commit(piece)
            left -= piece

    def window(self) -> tuple[Window, Tensor]:
        """The next window and its targets [B, C]."""
        window = self._window(self.shape.inputs, self.shape.scored)
        return window, self._tokens(self.shape.scored)

    def advance(self) -> None:
        """Moves the cache on; positions stay, so that learned ones never run out."""
        self._commit(self.shape.inputs)
        if self._past is not None:
            self._past.positions.fill_(self.shape.past)

    def _commit(self, width: int) -> None:
        if self._past is not None:
            self._past.commit(torch.full_like(self._past.valid, width))

    def _tokens(self, width: int) -> Tensor:
        shape = (self.lanes, width)
        ids = torch.randint(self.model.vocab_size, shape, generator=self._random)
        return ids.to(self.model.device)

    def _window(self, inputs: int, scored: int) -> Window:
        whole = torch.ones(self.lanes, dtype=torch.int64, device=self.model.device)
        ids = self._tokens(inputs)
        return Window(ids, whole * inputs, whole * scored, scored, self._past)
