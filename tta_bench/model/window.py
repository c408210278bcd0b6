"""The window: what the model reads in one step for all lanes, and which part of it is scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tta_bench.model.cache import LaneCache


@dataclass(frozen=True)
class Window:
    """The inputs of one step of B lanes; the targets of the chunk are given to `adapt` only.

    The model reads `input_ids`; the last `scored[b]` valid inputs of lane b each predict one token
    of the chunk. Chunk tensors are [B, C, ...] with lane b's tokens in columns 0 .. scored[b]-1.

    Attributes:
        input_ids: [B, L] int64, padded on the right with 0.
        lengths: [B] int64, number of valid inputs per lane; 0 for an idle lane.
        scored: [B] int64, number of scored predictions per lane.
        chunk_size: C, number of columns in the chunk, at least the maximum of `scored`.
        past: cached keys and values from before the window, or None.
    """

    input_ids: Tensor
    lengths: Tensor
    scored: Tensor
    chunk_size: int
    past: LaneCache | None = None

    @property
    def lanes(self) -> int:
        """B, the number of lanes."""
        return self.input_ids.shape[0]

    @property
    def whole(self) -> bool:
        """Whether it is one lane's alone, without padding."""
        return self.lanes == 1 and max(self._length_list[0], 1) == self.input_ids.shape[1]

    @cached_property
    def mask(self) -> Tensor:
        """[B, C] bool, True where a prediction is scored."""
        columns = torch.arange(self.chunk_size, device=self.input_ids.device)
        return columns[None, :] < self.scored[:, None]

    @cached_property
    def _positions(self) -> Tensor:
        """[B, C] int64, the input position that predicts each column; 0 for padding."""
        columns = torch.arange(self.chunk_size, device=self.input_ids.device)
        first = (self.lengths - self.scored)[:, None]
        return torch.where(self.mask, first + columns[None, :], 0)

    @cached_property
    def chunk_ids(self) -> Tensor:
        """[B, C] int64, the input token at each scored position; 0 for padding.

        The label of column i < scored-1 is `chunk_ids[:, i + 1]`; only `adapt` is given the last.
        """
        return self.input_ids.gather(1, self._positions).masked_fill(~self.mask, 0)

    def chunk(self, values: Tensor) -> Tensor:
        """The values at the scored positions: [B, L, ...] -> [B, C, ...]."""
        index = self._positions.reshape(*self._positions.shape, *[1] * (values.dim() - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))

    def scored_lanes(self) -> list[tuple[int, int]]:
        """(lane, number of scored predictions) of each lane that is not idle."""
        return [(lane, n) for lane, n in enumerate(self._scored_list) if n > 0]

    def copy(self) -> Window:
        """The same step in tensors of its own; carried keys are shared, to be read and staged."""
        return Window(
            input_ids=self.input_ids.clone(),
            lengths=self.lengths.clone(),
            scored=self.scored.clone(),
            chunk_size=self.chunk_size,
            past=None if self.past is None else self.past.view(),
        )

    def lane(self, lane: int) -> Window:
        """The step of one lane alone (B = 1), without the padding due to its neighbours."""
        length = max(self._length_list[lane], 1)
        return Window(
            input_ids=self.input_ids[lane : lane + 1, :length],
            lengths=self.lengths[lane : lane + 1],
            scored=self.scored[lane : lane + 1],
            chunk_size=self._scored_list[lane],
            past=None if self.past is None else self.past.lane(lane),
        )

    def row(self, lane: int) -> Window:
        """The step of one lane alone (B = 1), padded as it is beside its neighbours."""
        one = slice(lane, lane + 1)
        past = None if self.past is None else self.past.lane(lane)
        return Window(
            self.input_ids[one], self.lengths[one], self.scored[one], self.chunk_size, past
        )

    @cached_property
    def _scored_list(self) -> list[int]:
        return self.scored.tolist()

    @cached_property
    def _length_list(self) -> list[int]:
        return self.lengths.tolist()
