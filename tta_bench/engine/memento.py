"""What a method holds, remembered and put back bit for bit, so that it can read without learning.

Nothing is copied that could be called instead of the original: compiled functions and captured
graphs go on with the very tensors that they were made for.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tta_bench.model.language_model import LanguageModel

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.cache import LaneCache

_SHARED = (LanguageModel, ModuleType, type)
"""What belongs to all methods; the audit sees whether one changes it."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Memento:
    """The state of a method and of the cache that is carried for it, at one moment.

    Followed are attributes, slots, containers, bound methods, partial functions and closures.
    Tensors are remembered by their storage, once however many views there are, and get their bits
    back in place; containers and objects get back what they held; generators of random numbers go
    back to where they were, PyTorch's own included. The shared model is left alone.

    Args:
        method: the method; between two steps.
        past: keys and values that the engine carries for it, or None.
    """

    def __init__(self, method: Method, past: LaneCache | None):
        net = method.model.net
        shared = [*net.parameters(), *net.buffers()]
        self._shared = {tensor.untyped_storage().data_ptr() for tensor in shared}
        self._undo: list[Callable[[], object]] = []
        self._storages: set[int] = set()
        # The objects themselves: an id is of the living alone.
        self._seen: dict[int, object] = {id(thing): thing for thing in (*net.modules(), *shared)}
        waiting: list[Any] = [method, past]
        while waiting:
            thing = waiting.pop()
            if id(thing) in self._seen or isinstance(thing, (*_PLAIN, *_SHARED)):
                continue
            self._seen[id(thing)] = thing
            waiting += self._remember(thing)
        device = method.model.device
        self._random = torch.get_rng_state()
        self._random_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._device = device

    def restore(self) -> None:
        """Makes all of it what it was; may be called again and again."""
        for undo in self._undo:
            undo()
        torch.set_rng_state(self._random)
        if self._random_cuda is not None:
            torch.cuda.set_rng_state(self._random_cuda, self._device)

    def _remember(self, thing: Any) -> Iterable[Any]:
        """Notes how a thing is put back; returns what it holds."""
        if isinstance(thing, Tensor):
            return self._remember_tensor(thing)
        if isinstance(thing, np.ndarray):
            return self._remember_array(thing)
        if isinstance(thing, (tuple, frozenset)):
            return thing
        if isinstance(thing, MethodType):
            return thing.__self__, thing.__func__
        if isinstance(thing, functools.partial):
            return thing.func, thing.args, thing.keywords
        if isinstance(thing, FunctionType):
            return _closed_over(thing)
        if isinstance(thing, (dict, list, set, deque, bytearray)):
            return self._remember_container(thing)
        if isinstance(thing, (torch.Generator, random.Random, np.random.Generator)):
            self._undo.append(_generator(thing))
            return ()
        if _foreign(thing):
            return ()
        return self._remember_object(thing)

    def _remember_tensor(self, tensor: Tensor) -> Iterable[Any]:
        if tensor.is_meta:
            return ()
        whole, storage = tensor.detach(), tensor.untyped_storage()
        place = storage.data_ptr()

        def look_again() -> None:
            # A tensor may have been given another storage or shape by `data` or `set_`.
            if tensor.data_ptr() != whole.data_ptr() or tensor.shape != whole.shape:
                tensor.data = whole

        self._undo.append(look_again)
        if place not in self._shared and place not in self._storages and storage.nbytes():
            self._storages.add(place)
            bits = storage.clone()
            self._undo.append(lambda: storage.copy_(bits))
        return () if tensor.grad_fn is not None else (tensor.grad,)

    def _remember_array(self, array: np.ndarray) -> Iterable[Any]:
        if array.dtype.hasobject or not array.flags.writeable:
            return () if array.base is None else (array.base,)
        values = array.copy()
        self._undo.append(lambda: np.copyto(array, values))
        return ()

    def _remember_container(self, thing: Any) -> Iterable[Any]:
        if isinstance(thing, dict):
            pairs = dict(thing)

            def restore_pairs() -> None:
                thing.clear()
                thing.update(pairs)

            self._undo.append(restore_pairs)
            return *pairs.keys(), *pairs.values()
        values = list(thing)

        def restore_values() -> None:
            thing.clear()
            thing.update(values) if isinstance(thing, set) else thing.extend(values)

        self._undo.append(restore_values)
        return values

    def _remember_object(self, thing: Any) -> Iterable[Any]:
        held: list[Any] = []
        if hasattr(thing, "__dict__"):
            held.append(vars(thing))  # a dict, put back like any other
        for cls in type(thing).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name in ("__dict__", "__weakref__") or not hasattr(thing, name):
                    continue
                value = getattr(thing, name)
                held.append(value)
                self._undo.append(functools.partial(_set_slot, thing, name, value))
        return held


def _set_slot(thing: Any, name: str, value: Any) -> None:
    with suppress(AttributeError):  # a frozen dataclass cannot have changed either
        setattr(thing, name, value)


def _closed_over(function: FunctionType) -> list[Any]:
    """What a function closes over; of those of libraries nothing is a method's state."""
    if function.__module__ is None or _of_library(function.__module__):
        return []
    found = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            found.append(cell.cell_contents)
    return found


def _foreign(thing: Any) -> bool:
    """Whether an object is a library's own, such as a stream or a compiled function."""
    return _of_library(type(thing).__module__) and not isinstance(thing, nn.Module)


def _of_library(module: str) -> bool:
    return module.partition(".")[0] in ("torch", "numpy", "transformers", "functools", "builtins")


def _generator(thing: Any) -> Callable[[], object]:
    """What puts a generator of random numbers back to where it is."""
    if isinstance(thing, torch.Generator):
        where = thing.get_state()
        return lambda: thing.set_state(where)
    if isinstance(thing, random.Random):
        state = thing.getstate()
        return lambda: thing.setstate(state)
    at = thing.bit_generator.state
    return functools.partial(setattr, thing.bit_generator, "state", at)
