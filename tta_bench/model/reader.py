"""Forward passes over windows: with replaced weights, carried caches, all lanes at once or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench.model.carry import Read, read_alone, way_to_read_on
from tta_bench.model.compilation import run_split
from tta_bench.model.lane_check import LaneCheck
from tta_bench.model.lane_weights import LaneWeights

if TYPE_CHECKING:
    from tta_bench.model.split import Split
    from tta_bench.model.window import Window

Weights = Mapping[str, Tensor]


class Reader:
    """Reads windows with a model whose parameters may be replaced, for each lane by its own.

    Args:
        split: the model.
        norm_ranks: the result of `ranks_of_norms`.
        whole: read `logits` in place of `hidden`, since the model cannot be split.
        vocab_size: number of token ids.
    """

    def __init__(self, split: Split, norm_ranks: Mapping[str, int], whole: bool, vocab_size: int):
        self._split = split
        self._norm_ranks = norm_ranks
        self._what = "logits" if whole else "hidden"
        self._vocab_size = vocab_size

    def one_by_one(self, names: Iterable[str]) -> str | None:
        """Why lanes with their own values of these parameters must be read one by one, if so."""
        names = list(names)
        unknown = self._lane_weights.unknown(names)
        if unknown is not None:
            return f"{unknown} has no batched form for several lanes"
        failing = self._lane_check.failing(names)
        return None if failing is None else f"{failing} does not read several lanes as it reads one"

    @cached_property
    def carry(self) -> Read | str:
        """The way in which the model reads on from carried keys, or why there is none."""
        return way_to_read_on(self._split, self._what, self._vocab_size)

    def read(self, window: Window, weights: Weights, alone: bool = False) -> Tensor:
        """Hidden states [B, L, d], or logits [B, L, V] of a model that cannot be split.

        Args:
            window: what is read.
            weights: what replaces parameters.
            alone: whether each lane must be read by itself and without padding.
        """
        alone = alone or (window.past is not None and self.carry is read_alone)
        if (alone and not window.whole) or self._must_loop(weights):
            lanes = range(window.lanes)
            return torch.cat([self._one(window, weights, lane, alone) for lane in lanes])
        replaced = self._replaced(weights)
        if window.past is None:
            return self._forward(self._what, window.input_ids, replaced)
        assert not isinstance(self.carry, str)
        return self.carry(self._split, replaced, self._what, window)

    def _one(self, window: Window, weights: Weights, lane: int, alone: bool) -> Tensor:
        """What `read` gives for one lane [1, L, ...]."""
        own = window.lane(lane) if alone else window.row(lane)
        output = self.read(own, self._one_lane(weights, lane), alone)
        return F.pad(output, (0, 0, 0, window.input_ids.shape[1] - output.shape[1]))

    def unembed(self, hidden: Tensor, weights: Weights) -> Tensor:
        """Logits [B, n, V] of hidden states [B, n, d]."""
        if self._must_loop(weights):
            return torch.cat(
                [
                    self.unembed(hidden[lane : lane + 1], self._one_lane(weights, lane))
                    for lane in range(len(hidden))
                ]
            )
        return run_split(self._split, self._replaced(weights), "unembed", hidden)

    @cached_property
    def _lane_weights(self) -> LaneWeights:
        return LaneWeights(self._split.net, self._norm_ranks)

    @cached_property
    def _lane_check(self) -> LaneCheck:
        def read(ids: Tensor, weights: Weights) -> Tensor:
            return self._forward("logits", ids, self._replaced(weights))

        return LaneCheck(self._split.net, read, self._vocab_size)

    def _forward(self, what: str, ids: Tensor, replaced: Weights) -> Any:
        return run_split(self._split, replaced, what, ids, use_cache=False)[0]

    def _must_loop(self, weights: Weights) -> bool:
        """Whether lanes must be read one by one: their weights differ and have no batched form."""
        return (self._lanes_of(weights) or 1) > 1 and self.one_by_one(weights) is not None

    def _lanes_of(self, weights: Weights) -> int | None:
        """B if the weights have a lane dimension; None if all lanes share them."""
        return self._lane_weights.lanes(weights) if weights else None

    def _one_lane(self, weights: Weights, lane: int) -> Weights:
        if (self._lanes_of(weights) or 1) == 1:
            return weights
        return {name: value[lane : lane + 1] for name, value in weights.items()}

    def _replaced(self, weights: Weights) -> dict[str, Tensor]:
        """The weights as the modules of the split take them; those of a single lane are shared."""
        if not weights:
            return {}
        self._lane_weights.check(weights)
        lanes = self._lanes_of(weights)
        if lanes == 1:
            weights = {name: value.squeeze(0) for name, value in weights.items()}
        elif lanes is not None:
            weights = self._lane_weights.broadcast(weights)
        return {f"net.{name}": value for name, value in weights.items()}
