"""Keys and values that are carried from chunk to chunk (context mode `cache`), one row per lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.errors import MethodError, ModelError

if TYPE_CHECKING:
    from transformers import DynamicCache


class LaneCache:
    """The last `capacity` keys and values of each layer, for all lanes.

    Rows are aligned on the right: lane b has `valid[b]` entries at the right end, and everything to
    the left of them is masked. A forward pass *stages* the extended keys and values; `commit`,
    called after `adapt`, makes them the past, so that scoring twice reads the same past twice. Keys
    from weights that have changed since are kept (a stale cache, as in Transformer-XL). They carry
    no gradient.

    Args:
        lanes: B, the number of lanes.
        capacity: number of keys and values kept per lane.
        device: device of the keys and values.
    """

    def __init__(self, lanes: int, capacity: int, device: torch.device):
        self.capacity = capacity
        self.valid = torch.zeros(lanes, dtype=torch.int64, device=device)
        self.positions = torch.zeros(lanes, dtype=torch.int64, device=device)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._staged: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._rows: list[int] = list(range(lanes))
        self._owner: LaneCache = self

    @property
    def length(self) -> int:
        """P, the number of keys per lane, valid or not."""
        return self._owner._layers[0][0].shape[2] if self._owner._layers else 0

    def view(self) -> LaneCache:
        """A view of all lanes that stages into the same cache, with counters of its own.

        What a method writes to `valid` and `positions` of a view changes nothing in the cache.
        """
        return self._viewed(self.valid.clone(), self.positions.clone(), list(self._rows))

    def lane(self, lane: int) -> LaneCache:
        """A view of one lane that stages into the same cache."""
        one = slice(lane, lane + 1)
        return self._viewed(self.valid[one], self.positions[one], [self._rows[lane]])

    def _viewed(self, valid: Tensor, positions: Tensor, rows: list[int]) -> LaneCache:
        view = LaneCache.__new__(LaneCache)
        view.capacity, view.valid, view.positions = self.capacity, valid, positions
        view._owner, view._rows = self._owner, rows
        return view

    def to_transformers(self) -> DynamicCache:
        """The past as a `DynamicCache` that the model may extend."""
        from transformers import DynamicCache

        cache = DynamicCache()
        rows = slice(None) if len(self._rows) > 1 else slice(self._rows[0], self._rows[0] + 1)
        for index, (keys, values) in enumerate(self._owner._layers):
            cache.update(keys[rows], values[rows], index)
        return cache

    def attention_mask(
        self, width: int, dtype: torch.dtype, sliding_window: int | None = None
    ) -> Tensor:
        """Additive mask [B, 1, L, P+L]: valid entries of the past, and causal inside the window.

        Args:
            width: L, the inputs of the window.
            dtype: dtype of the mask.
            sliding_window: number of tokens that a layer looks back over; None for all.
        """
        past = self.length
        device = self.valid.device
        query = torch.arange(width, device=device)[:, None]
        key = torch.arange(past + width, device=device)[None, :]
        causal = (key - past) <= query  # [L, P+L]
        held = key >= past - self.valid[:, None, None]  # [B, 1, P+L]
        allowed = causal[None] & held
        if sliding_window is not None:
            allowed = allowed & (query - (key - past) < sliding_window)
        mask = torch.zeros(allowed.shape, dtype=dtype, device=device)
        return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]

    def position_ids(self, width: int, lengths: Tensor) -> Tensor:
        """Absolute positions [B, L] of the window's inputs, of which `lengths` [B] are valid.

        Padding has position 0, since positions after the end of a document may be beyond those that
        the model knows.
        """
        columns = torch.arange(width, device=self.positions.device)[None, :]
        return torch.where(columns < lengths[:, None], self.positions[:, None] + columns, 0)

    def stage(self, cache: DynamicCache) -> None:
        """Keeps the extended keys and values of a forward pass until `commit`."""
        layers: list[tuple[Tensor, Tensor]] = []
        for layer in cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if keys is None or values is None:
                raise ModelError(
                    "this model keeps no keys and values; use --context-mode recompute."
                )
            layers.append((keys.detach(), values.detach()))
        for index, row in enumerate(self._rows):
            self._owner._staged[row] = [
                (keys[index : index + 1], values[index : index + 1]) for keys, values in layers
            ]

    def commit(self, lengths: Tensor) -> None:
        """Makes the staged keys and values the past.

        A lane with fewer inputs than its neighbours is at the end of its document, with padding on
        the right, and is reset before it reads again.

        Args:
            lengths: [B] number of inputs that each lane has read.
        """
        if self._owner is not self:
            raise MethodError("a method must not commit carried keys; the engine does.")
        if not self._staged:
            return
        width = max(part[0][0].shape[2] for part in self._staged.values())
        some = next(iter(self._staged.values()))
        idle = [(torch.zeros_like(keys), torch.zeros_like(values)) for keys, values in some]
        layers = []
        for index in range(len(some)):
            keys, values = (
                torch.cat(
                    [
                        _fit(self._staged.get(row, idle)[index][kind], width)
                        for row in range(len(self.valid))
                    ]
                )[:, :, -self.capacity :]
                for kind in (0, 1)
            )
            layers.append((keys.contiguous(), values.contiguous()))
        self._layers = layers
        self._staged = {}
        self.valid += lengths
        self.valid.clamp_(max=self.capacity)
        self.positions += lengths

    def reset(self, lane: int) -> None:
        """Clears a lane, including its keys and values, since a masked NaN is still a NaN."""
        self.valid[lane] = 0
        self.positions[lane] = 0
        for keys, values in self._layers:
            keys[lane] = 0
            values[lane] = 0


def _fit(tensor: Tensor, width: int) -> Tensor:
    """Pads the keys on the right, for a lane that was read without its neighbours' padding."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, width - tensor.shape[2]))
