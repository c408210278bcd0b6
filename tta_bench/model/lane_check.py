"""Whether lanes with weights of their own, read at once, read as each of them does alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tta_bench.model.rounding import apart

Read = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""Logits [B, L, V] of ids [B, L], with weights per lane."""

_WIDTH = 8
"""Number of tokens that are read."""


class LaneCheck:
    """Tries a model with two lanes on synthetic tokens, once for parameters of the same role.

    A module's batched form takes lanes to be the first dimension of its input, and its weights to
    be read by nobody else. There are models where one or the other is not so.

    Args:
        net: the model, its modules ready for parameters with a lane dimension.
        read: reads it.
        vocab_size: number of token ids.
    """

    def __init__(self, net: nn.Module, read: Read, vocab_size: int):
        self._net, self._read = net, read
        device = next(net.parameters()).device
        self._ids = (torch.arange(2 * _WIDTH, device=device) * 37 % vocab_size).view(2, _WIDTH)
        self._fails: dict[str, bool] = {}  # by role

    def failing(self, names: Iterable[str]) -> str | None:
        """One of these parameters that cannot be read at once with the others, or None."""
        if self._ids.device.type == "meta":
            return None  # there are no values to compare
        roles: dict[str, str] = {}
        for name in filter(self._takes, names):
            roles.setdefault(re.sub(r"\.\d+\.", ".", name), name)
        new = {role: name for role, name in roles.items() if role not in self._fails}
        if new:
            together = self._agree(new.values())
            for role, name in new.items():
                self._fails[role] = not together and not self._agree([name])
        return next((name for role, name in roles.items() if self._fails[role]), None)

    def _takes(self, name: str) -> bool:
        """Whether there is such a parameter, or room for such an adapter."""
        path, _, last = name.rpartition(".")
        return hasattr(self._net.get_submodule(path), last)

    @torch.no_grad()
    def _agree(self, names: Iterable[str]) -> bool:
        own = {name: self._two_values(name) for name in names}
        lanes = [{name: value[i : i + 1] for name, value in own.items()} for i in range(2)]
        alone = [self._read(self._ids[i : i + 1], lane) for i, lane in enumerate(lanes)]
        try:
            found = self._read(self._ids, own)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # code of others: there is no end to what shapes of its own make it raise
            return False
        dtype = next(iter(own.values())).dtype
        return all(
            apart(one.double(), other[0].double(), dtype) is None
            for one, other in zip(found, alone, strict=True)
        )

    def _two_values(self, name: str) -> Tensor:
        """The shared value, and one that differs from it in every entry; of adapters, two."""
        path, _, last = name.rpartition(".")
        module: Any = self._net.get_submodule(path)
        value = getattr(module, last)
        if value is None:  # an adapter of rank one: x A^T B^T
            weight = module.weight
            ends = weight.shape[::-1] if type(module).__name__ == "Conv1D" else weight.shape
            shape = (1, ends[1]) if last == "lora_A" else (ends[0], 1)
            value = torch.full(shape, 0.1, dtype=weight.dtype, device=weight.device)
        # Far from the shared value, and no larger, or 16 bits would not hold what comes of it.
        other = value * 1.25 + 0.05 if value.dim() < 2 else value * -1.25
        return torch.stack([value, other])
