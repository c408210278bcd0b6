"""Keys and values that are carried from chunk to chunk (context mode `cache`), one row per lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
        self._of_method = False
        self._written: set[int] = set()

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor]], valid: Tensor) -> LaneCache:
        """A past that a method keeps itself, for one step; positions are counted inside it.

        Args:
            layers: keys and values [B, H, P, D] of each layer.
            valid: [B] int64, how many of them each lane has, at the right end.
        """
        cache = cls(len(valid), layers[0][0].shape[2], valid.device)
        cache.valid, cache.positions, cache._layers = valid, valid.clone(), list(layers)
        cache._of_method = True
        return cache

    @property
    def of_method(self) -> bool:
        """Whether it, or what it is a view of, was made by `of`: what it holds is the method's."""
        return self._owner._of_method

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

    def alone(self) -> DynamicCache:
        """The past of a view of one lane without what is masked, at the lane's own position.

        For a model that takes positions, or a pattern of attention, from the length of its cache.
        """
        from tta_bench.model.placed_cache import PlacedCache

        (row,), held = self._rows, int(self.valid)
        cache = PlacedCache(int(self.positions) - held)
        own = slice(self.length - held, None)
        for index, (keys, values) in enumerate(self._owner._layers):
            cache.update(keys[row : row + 1, :, own], values[row : row + 1, :, own], index)
        return cache

    def held(self, width: int) -> Tensor:
        """[B, P+L] int64: 1 at valid entries of the past and at the L inputs of the window.

        Transformers makes of it the masks of every kind of layer that a model has.
        """
        past = self.length
        key = torch.arange(past + width, device=self.valid.device)
        return (key >= past - self.valid[:, None]).long()

    def attention_mask(self, width: int, dtype: torch.dtype) -> Tensor:
        """Additive mask [B, 1, L, P+L]: valid entries of the past, and causal inside the window.

        Args:
            width: L, the inputs of the window.
            dtype: dtype of the mask.
        """
        query = torch.arange(width, device=self.valid.device)[:, None]
        key = torch.arange(self.length + width, device=self.valid.device)
        allowed = (key - self.length <= query) & self.held(width)[:, None].bool()  # [B, L, P+L]
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]

    def position_ids(self, width: int, lengths: Tensor) -> Tensor:
        """Absolute positions [B, L] of the window's inputs, of which `lengths` [B] are valid.

        Padding has position 0, since positions after the end of a document may be beyond those that
        the model knows.
        """
        columns = torch.arange(width, device=self.positions.device)[None, :]
        return torch.where(columns < lengths[:, None], self.positions[:, None] + columns, 0)

    def stage(self, cache: DynamicCache, width: int, masked: int = 0) -> None:
        """Keeps the extended keys and values of a forward pass until `commit`.

        Args:
            cache: what `to_transformers` or `alone` gave, after the model has extended it.
            width: number of inputs that the model has read.
            masked: number of keys at the left that `alone` left out.

        Raises:
            ModelError: there is not one key and one value for each input.
        """
        layers = [_extended(layer, self.length + width, masked) for layer in cache.layers]
        if not layers:
            raise ModelError("it keeps no keys and values")
        for index, row in enumerate(self._rows):
            self._owner._staged[row] = [
                (keys[index : index + 1], values[index : index + 1]) for keys, values in layers
            ]

    def taken(self) -> list[tuple[Tensor, Tensor]]:
        """The staged keys and values [B, H, P+L, D] of each layer, which are staged no longer.

        Lanes that nothing was staged for have zeros.
        """
        staged, self._staged = self._staged, {}
        if not staged:
            return []
        width = max(part[0][0].shape[2] for part in staged.values())
        some = next(iter(staged.values()))
        idle = [(torch.zeros_like(keys), torch.zeros_like(values)) for keys, values in some]
        rows = [staged.get(row, idle) for row in range(len(self.valid))]
        return [
            (
                torch.cat([_fit(row[index][0], width) for row in rows]),
                torch.cat([_fit(row[index][1], width) for row in rows]),
            )
            for index in range(len(some))
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
        staged = self.taken()
        if not staged:
            return
        self._layers = [
            (
                keys[:, :, -self.capacity :].contiguous(),
                values[:, :, -self.capacity :].contiguous(),
            )
            for keys, values in staged
        ]
        self._written = set(range(len(lengths)))
        self.valid += lengths
        self.valid.clamp_(max=self.capacity)
        self.positions += lengths

    def reset(self, lane: int) -> None:
        """Clears a lane, including its keys and values, since a masked NaN is still a NaN.

        Where no lane holds anything any more, the past is as long as a new one: what is read next
        is then read in the same order of summation, and is the same bit for bit.
        """
        self._written.discard(lane)
        if not self._written:
            self._layers = []
        self.valid[lane] = 0
        self.positions[lane] = 0
        for keys, values in self._layers:
            keys[lane] = 0
            values[lane] = 0


def _extended(layer: Any, length: int, masked: int) -> tuple[Tensor, Tensor]:
    """The keys and values of a layer, those that were left out filled with zeros."""
    found: list[Any] = [getattr(layer, name, None) for name in ("keys", "values")]
    if any(part is None or part.dim() != 4 or part.shape[2] + masked != length for part in found):
        raise ModelError("it does not keep one key and one value for each token")
    keys, values = (F.pad(part.detach(), (0, 0, masked, 0)) for part in found)
    return keys, values


def _fit(tensor: Tensor, width: int) -> Tensor:
    """Pads the keys on the right, for a lane that was read without its neighbours' padding."""
    return F.pad(tensor, (0, 0, 0, width - tensor.shape[2]))
