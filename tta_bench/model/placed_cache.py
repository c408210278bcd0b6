"""A cache of transformers that begins somewhere inside its document."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache


class PlacedCache(DynamicCache):
    """Keys and values of a document whose first `dropped` tokens are kept no more.

    Lengths and offsets count these tokens too. So a model that takes positions from the length of
    its cache, or a pattern of attention from the indices of its keys, finds them as they were.
    """

    def __init__(self, dropped: int):
        super().__init__()
        self.dropped = dropped

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.dropped + super().get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, Any]:
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        return length, self.dropped + offset
