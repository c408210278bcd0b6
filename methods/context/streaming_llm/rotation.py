"""Rotary positions, taken off cached keys and put on again: R(p) k in the model's own form.

A rotary model turns pairs of a key's dimensions by angles that grow with its position. Libraries
write the pairs and the tables of cosines in several ways. None is assumed here: a few tokens are
read at two places, and the way in which their keys agree once they are turned back is the model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from tta_bench import LaneCache, LanguageModel, UsageError, Window

_TOKENS, _PLACES = 8, (0, 5)
"""How many tokens are read to find the form, and where the first of them stands."""

_SAME, _SAME_ROUNDED = 1e-3, 0.05
"""Norm of the difference of keys that agree, relative to their norm, in float32 and in less."""

Pairs = Literal["halves", "neighbours"]
Angles = Literal["first half", "every second", "all"]


@dataclass(frozen=True)
class Rotation:
    """How a model turns its keys.

    Attributes:
        rotary: the model's module; called with positions [B, n] it gives cosines and sines.
        pairs: dimension i turns with i + r/2 of the r that turn, or with its neighbour.
        angles: which entries of a table belong to the r/2 pairs, in order.
        kinds: the kind of each layer, if the module has angles for each kind; else empty.
    """

    rotary: nn.Module
    pairs: Pairs
    angles: Angles
    kinds: tuple[str, ...] = ()

    def turn(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys [B, layers, H, n, D] without positions as they stand at positions [B, n]."""
        cos, sin = self._tables(keys, positions)
        return self._turned(keys, cos, sin)

    def turn_back(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys that stand at these positions without them: exactly what `turn` undoes.

        Some models also scale keys by their tables; that is undone as well.
        """
        cos, sin = self._tables(keys, positions)
        squares = cos.square() + sin.square()
        return self._turned(keys, cos / squares, -sin / squares)

    def _tables(self, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, layers or 1, 1, n, r/2], at least in float32."""
        precise = torch.promote_types(keys.dtype, torch.float32)
        cos, sin = (table[:, :, None].to(precise) for table in self._by_layer(keys, positions))
        if self.angles == "first half":
            half = cos.shape[-1] // 2
            return cos[..., :half], sin[..., :half]
        step = 2 if self.angles == "every second" else 1
        return cos[..., ::step], sin[..., ::step]

    def _by_layer(self, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The module's own tables [B, layers or 1, n, ...]."""
        if not self.kinds:
            cos, sin = self.rotary(keys, positions)
            return cos[:, None], sin[:, None]
        found = {kind: self.rotary(keys, positions, kind) for kind in set(self.kinds)}
        cos, sin = (torch.stack([found[kind][i] for kind in self.kinds], dim=1) for i in (0, 1))
        return cos, sin

    def _turned(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        width = 2 * cos.shape[-1]
        turning, rest = keys[..., :width].to(cos.dtype), keys[..., width:]
        if self.pairs == "halves":
            one, other = turning.chunk(2, dim=-1)
        else:
            one, other = turning[..., ::2], turning[..., 1::2]
        parts = one * cos - other * sin, other * cos + one * sin
        both = (
            torch.cat(parts, -1) if self.pairs == "halves" else torch.stack(parts, -1).flatten(-2)
        )
        return torch.cat([both.to(keys.dtype), rest], dim=-1)


@dataclass(frozen=True)
class Carried:
    """What a model keeps of each token.

    Attributes:
        rotation: how keys are turned.
        keys: (layers, H, D) of all keys.
        values: the same of all values.
    """

    rotation: Rotation
    keys: tuple[int, ...]
    values: tuple[int, ...]


def carried_by(model: LanguageModel) -> Carried:
    """What a model keeps of each token, found by reading the same few tokens at two places.

    Raises:
        UsageError: positions cannot be taken off its keys.
        ModelError: it cannot read on from carried keys.
    """
    if not model.rotary:
        raise _refusal(model, "it has no rotary positions")
    here, there = (_read(model, place) for place in _PLACES)
    if any(part.shape != here[0][i].shape for layer in here for i, part in enumerate(layer)):
        raise _refusal(model, "its layers keep keys of different sizes")
    (keys, values), (elsewhere, _) = (
        [torch.stack([layer[i] for layer in read], dim=1) for i in (0, 1)] for read in (here, there)
    )
    for rotation in _candidates(model):
        if model.device.type == "meta" or _agree(rotation, keys, elsewhere):
            sizes = ((*part.shape[1:3], part.shape[-1]) for part in (keys, values))
            return Carried(rotation, *sizes)
    raise _refusal(model, "its keys are turned in a way that is not known here")


@torch.no_grad()
def _read(model: LanguageModel, place: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, of synthetic tokens that stand from this place on."""
    ids = torch.arange(_TOKENS, device=model.device)[None] * 37 % model.vocab_size
    whole = torch.full((1,), _TOKENS, device=model.device)
    past = LaneCache(1, _TOKENS, model.device)
    past.positions += place
    model.logits(Window(ids, whole, whole, _TOKENS, past))
    return past.taken()


def _candidates(model: LanguageModel) -> Iterator[Rotation]:
    pairs: tuple[Pairs, ...] = ("halves", "neighbours")
    angles: tuple[Angles, ...] = ("first half", "every second", "all")
    kinds = tuple(getattr(model.config, "layer_types", None) or ())
    for module in model.net.modules():
        if "Rotary" in type(module).__name__:
            forms = product(pairs, angles, dict.fromkeys([(), kinds]))
            yield from (Rotation(module, *form) for form in forms)


@torch.no_grad()
def _agree(rotation: Rotation, *keys: Tensor) -> bool:
    """Whether keys of the same tokens at two places are the same when they are turned back."""
    columns = torch.arange(_TOKENS, device=keys[0].device)[None]
    try:
        here, there = (
            rotation.turn_back(part, columns + place).float()
            for part, place in zip(keys, _PLACES, strict=True)
        )
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False  # the module takes something else, or its tables do not fit the keys
    tolerance = _SAME if keys[0].dtype.itemsize >= 4 else _SAME_ROUNDED
    apart = (here - there).flatten(2).norm(dim=-1)  # of each layer
    return bool((apart <= tolerance * here.flatten(2).norm(dim=-1)).all())


def _refusal(model: LanguageModel, why: str) -> UsageError:
    return UsageError(
        f"the cached keys of {model.name} cannot be numbered anew ({why}); use window:context=N, "
        "which reads the last N tokens again."
    )
