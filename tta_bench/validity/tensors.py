"""Which tensors a method holds, how many bytes they take, and which of them have changed."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tta_bench.model.cache import LaneCache
from tta_bench.model.language_model import LanguageModel

if TYPE_CHECKING:
    from tta_bench.contract.method import Method

_LEAVES = (str, bytes, int, float, complex, type(None), torch.device, torch.dtype)
_NOT_HELD = (LanguageModel, LaneCache, type, ModuleType)


def reachable(root: object, skip: tuple[object, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Every tensor reachable from `root` through containers and attributes, with its path.

    Closures and memory behind other languages' objects are not followed; nor are models and
    carried keys and values, which belong to the bench.
    """
    seen = {id(thing) for thing in skip}
    kept: list[object] = []  # an id is only unique while its object lives
    stack: list[tuple[str, object]] = [("", root)]
    while stack:
        path, thing = stack.pop()
        if isinstance(thing, (*_LEAVES, *_NOT_HELD)) or id(thing) in seen:
            continue
        seen.add(id(thing))
        kept.append(thing)
        if isinstance(thing, Tensor):
            yield path, thing
        elif isinstance(thing, Mapping):
            stack += [(f"{path}[{key!r}]", value) for key, value in thing.items()]
        elif isinstance(thing, (list, tuple, set, frozenset, deque)):
            stack += [(f"{path}[{i}]", value) for i, value in enumerate(thing)]
        elif isinstance(thing, nn.Module) or hasattr(thing, "__dict__"):
            stack += [(f"{path}.{key}", value) for key, value in vars(thing).items()]
        elif dataclasses.is_dataclass(thing):
            fields = dataclasses.fields(thing)
            stack += [(f"{path}.{field.name}", getattr(thing, field.name)) for field in fields]


def state_bytes(method: Method) -> int:
    """The bytes of the tensors in `method.state`, all lanes together; an alias counts once."""
    found = {
        (tensor.data_ptr(), tensor.numel(), tensor.dtype): tensor.numel() * tensor.element_size()
        for _, tensor in reachable(method.state)
    }
    return sum(found.values())


def bytes_elsewhere(method: Method) -> int:
    """The bytes that a method holds outside `method.state` and the shared weights."""
    known = {
        tensor.untyped_storage().data_ptr()
        for tensor in [
            *(tensor for _, tensor in reachable(method.state)),
            *method.model.net.parameters(),
            *method.model.net.buffers(),
        ]
    }
    skip = (method.state, method.params, method.model)
    found: dict[int, int] = {}
    for _, tensor in reachable(method, skip):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def snapshot(method: Method) -> dict[str, Tensor]:
    """Copies of the shared weights and of the method's state, by name."""
    return {**shared_weights(method.model), **state(method)}


def state(method: Method) -> dict[str, Tensor]:
    """A copy of every tensor of the method's state, by its path."""
    return {f"state{path}": tensor.detach().clone() for path, tensor in reachable(method.state)}


def shared_weights(model: LanguageModel) -> dict[str, Tensor]:
    """A copy of every parameter and buffer of the model, by its name."""
    named = [*model.net.named_parameters(), *model.net.named_buffers()]
    return {f"model.{name}": tensor.detach().clone() for name, tensor in named}


def restore(model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Puts back what `shared_weights` copied."""
    named = [*model.net.named_parameters(), *model.net.named_buffers()]
    with torch.no_grad():
        for name, tensor in named:
            tensor.copy_(weights[f"model.{name}"])


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that are not bit for bit the same, or that have come or gone."""
    names = sorted(before.keys() | after.keys())
    return [
        name
        for name in names
        if name not in before or name not in after or not _same(before[name], after[name])
    ]


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())  # NaN equals NaN
