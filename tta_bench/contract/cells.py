"""The source of a class that stands in no file, such as the cell of a notebook."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import cached_property, partial
from types import CodeType, FunctionType
from typing import Any

from tta_bench.errors import MethodError

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def cells_source(cls: type) -> str:
    """What can change the numbers of a class: its functions, its constants, and whatever of the
    same notebook these name, directly or not. Arrays and other objects that they name are not told.

    Raises:
        MethodError: the source of one of its functions cannot be read.
    """
    waiting: list[tuple[str, Any]] = [(cls.__qualname__, cls)]
    seen: set[int] = set()
    found: list[str] = []
    while waiting:
        name, thing = waiting.pop()
        if id(thing) in seen:
            continue
        if isinstance(thing, _PLAIN) or _is_plain(thing):
            found.append(f"{name} = {thing!r}")
            continue
        seen.add(id(thing))
        if isinstance(thing, type) and _in_no_file(thing):
            found.append(
                f"class {name}({', '.join(base.__qualname__ for base in thing.__bases__)})"
            )
            waiting += [(base.__qualname__, base) for base in thing.__bases__]
            waiting += [
                (f"{name}.{key}", value)
                for key, value in vars(thing).items()
                if not (key.startswith("__") and key.endswith("__")) or callable(value)
            ]
        for function in _functions(thing):
            if _in_no_file(function):
                found.append(f"{name}: {_source(function)}")
                waiting += _named(function)
    return "\n".join(sorted(found))


def _is_plain(thing: Any) -> bool:
    """Whether a value is a container of plain values alone, so that its `repr` says all of it."""
    if isinstance(thing, (tuple, list, set, frozenset)):
        return all(isinstance(x, _PLAIN) or _is_plain(x) for x in thing)
    if isinstance(thing, dict):
        return _is_plain(list(thing)) and _is_plain(list(thing.values()))
    return False


def _in_no_file(thing: Any) -> bool:
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    return module is not None and getattr(module, "__file__", None) is None


def _functions(thing: Any) -> Iterator[FunctionType]:
    """The functions behind a method of any kind."""
    if isinstance(thing, (staticmethod, classmethod)):
        thing = thing.__func__
    elif isinstance(thing, (cached_property, partial)):
        thing = thing.func
    parts = (thing.fget, thing.fset) if isinstance(thing, property) else (thing,)
    for part in parts:
        inner = inspect.unwrap(part) if callable(part) else part
        if isinstance(inner, FunctionType):
            yield inner


def _source(function: FunctionType) -> str:
    name = function.__name__
    if function.__code__.co_filename == "<string>" and name.startswith("__"):
        return ""  # what `dataclass` writes; the fields are told by themselves
    try:
        return inspect.getsource(function)
    except (OSError, TypeError) as error:
        raise MethodError(
            f"the source of {function.__qualname__} cannot be read, so that no run could say what "
            "it is of; define the method in a cell of a notebook or in a file."
        ) from error


def _named(function: FunctionType) -> list[tuple[str, Any]]:
    """The global things that a function names, and what it closes over."""
    space = function.__globals__
    things = [(name, space[name]) for name in _names(function.__code__) if name in space]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            things.append((name, cell.cell_contents))
        except ValueError:  # not filled yet
            continue
    return things


def _names(code: CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found
