"""Bytes that a method holds, wherever it keeps them: state is what grows with lanes and length."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from tta_bench.model.cache import LaneCache
from tta_bench.model.language_model import LanguageModel

if TYPE_CHECKING:
    from tta_bench.contract.method import Method

_FREE = (type(None), bool, type(Ellipsis), BuiltinFunctionType)
_SHARED = (LanguageModel, ModuleType)
"""What belongs to the bench or to the interpreter, as the cache that the engine carries does."""


def held_bytes(method: Method) -> int:
    """Bytes of all that can be reached from a method, the shared model and its weights apart.

    Followed are attributes, containers, closures and defaults of functions, and the variables of
    the method's own modules and classes, so that a list in a module counts as well as a tensor in
    `state`. Tensors and arrays count by their storage, once; other objects by `sys.getsizeof`.
    """
    own = {cls.__module__ for cls in type(method).__mro__ if not _public(cls.__module__)}
    shared = _storages([*method.model.net.parameters(), *method.model.net.buffers()])
    seen: set[int] = set()
    storages: dict[int, int] = {}
    kept: list[object] = []  # an id is unique only while its object lives
    waiting: list[Any] = [method, *(_variables(name) for name in own)]
    other = 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (*_FREE, *_SHARED)):
            continue
        if isinstance(thing, LaneCache) and not thing.of_method:
            continue
        seen.add(id(thing))
        kept.append(thing)
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            if storage.data_ptr() not in shared:
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, np.ndarray):
            if thing.base is None:
                other += thing.nbytes
            else:
                waiting.append(thing.base)
        elif isinstance(thing, (str, bytes, bytearray, int, float, complex)):
            other += sys.getsizeof(thing)
        else:
            children = _children(thing, own)
            if children is not None:
                other += 0 if isinstance(thing, (type, FunctionType)) else sys.getsizeof(thing)
                waiting += children
    return other + sum(storages.values())


def _public(module: str) -> bool:
    return module.partition(".")[0] in ("tta_bench", "torch", "builtins", "typing", "abc")


def _storages(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def _variables(module: str) -> dict[str, Any]:
    """Values of a module that are neither modules nor imported."""
    found = vars(sys.modules[module]) if module in sys.modules else {}
    return {
        name: value
        for name, value in found.items()
        if getattr(value, "__module__", None) == module
        or not (name.startswith("__") or isinstance(value, (type, FunctionType)))
    }


def _children(thing: Any, own: set[str]) -> list[Any] | None:
    """What an object holds; None where it holds nothing of the method's."""
    if isinstance(thing, MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, FunctionType):
        if thing.__module__ not in own:
            return None
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        return [*cells, *(thing.__defaults__ or ()), *vars(thing).values()]
    if isinstance(thing, type):
        return list(vars(thing).values()) if thing.__module__ in own else None
    if isinstance(thing, Mapping):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(thing)
    children: list[Any] = []
    if hasattr(thing, "__dict__"):
        children += vars(thing).values()
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        children += [getattr(thing, name) for name in names if hasattr(thing, name)]
    if hasattr(thing, "__iter__") and hasattr(thing, "__len__") and not children:
        children += list(thing)  # deque, array and their like
    return children


def _filled(cell: CellType) -> bool:
    """Whether a closure's variable has been assigned yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
