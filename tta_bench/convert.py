"""From a mapping to a dataclass: YAML files, `name:key=value` text, stored manifests.

YAML values are held to the declared types: 'no' in quotes is no truth value, and 1.9 is no whole
number. Text from a command line is parsed into them instead. Any error is one sentence with the
key, the value and, where it is known, the line.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from tta_bench.errors import UsageError

T = TypeVar("T")
Place = tuple[Any, ...]
"""The keys and list indices that lead from the top of the source to a value."""

_TRUTHS = {"true": True, "yes": True, "1": True, "on": True}
_TRUTHS |= {"false": False, "no": False, "0": False, "off": False}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_NAMES |= {dict: "a mapping"}
_MOST = 2**63  # no person means a larger whole number, and Python does not print much larger ones


class _Mismatch(Exception):
    """The value is not of its type.

    Args:
        wanted: what it must be.
        given: what it is, where the value as a whole does not say it.
    """

    def __init__(self, wanted: str, given: str = ""):
        super().__init__(wanted)
        self.given = given


@dataclasses.dataclass(frozen=True)
class Converter:
    """Makes dataclasses of the values of one source.

    Attributes:
        what: names the source in an error, such as `the suite mine.yaml`.
        noun: names a field in an error.
        text: values are text to be parsed, such as `1e-4`, `no`, `none` or `[a,b]`.
        line: the line of the source where a value stands, or None.
    """

    what: str
    noun: str = "key"
    text: bool = False
    line: Callable[[Place], int | None] = lambda at: None

    def make(self, cls: type[T], values: Mapping[str, Any], at: Place = ()) -> T:
        """An instance of the dataclass `cls`, whose values stand at `at`.

        Raises:
            UsageError: see `fields`; or the dataclass's `__post_init__` raises ValueError.
        """
        fields = self.fields(cls, values, at)
        try:
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise self.error(at, str(error)) from error

    def fields(self, cls: type, values: Mapping[str, Any], at: Place = ()) -> dict[str, Any]:
        """The values as the fields of the dataclass `cls` want them.

        Raises:
            UsageError: an unknown key (with the closest known one), or a value of another type.
        """
        kinds = typing.get_type_hints(cls)
        known = [field.name for field in dataclasses.fields(cls)]
        found = {}
        for key, value in values.items():
            if key not in known:
                near = _nearest(key, known)
                every = f"{self.noun}s: {', '.join(known) or 'none'}."
                hint = f"did you mean '{near[0]}'?" if near else every
                raise self.error((*at, key), f"there is no {self.noun} {_shown(key)}; {hint}")
            try:
                found[key] = self._value(value, kinds[key], (*at, key))
            except _Mismatch as wanted:
                sentence = f"'{key}' must be {wanted}, not {wanted.given or _shown(value)}."
                raise self.error((*at, key), sentence) from None
        return found

    def error(self, at: Place, sentence: str) -> UsageError:
        line = self.line(at)
        return UsageError(f"{self.what}{'' if line is None else f', line {line}'}: {sentence}")

    def _value(self, value: Any, kind: Any, at: Place) -> Any:
        origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin is Any:
            return value
        if origin in (typing.Union, types.UnionType):
            return self._any_of(value, inner, at)
        if origin is typing.Literal:
            return self._choice(value, inner)
        if origin in (list, tuple):
            return origin(self._items(value, inner[0] if inner else Any, at))
        if dataclasses.is_dataclass(origin) and isinstance(value, Mapping):
            return self.make(kind, value, at)
        if origin is dict and isinstance(value, dict):
            of = inner[1] if inner else Any
            return {key: self._value(item, of, (*at, key)) for key, item in value.items()}
        mapping = origin is dict or dataclasses.is_dataclass(origin)
        return _parsed(str(value), origin) if self.text and not mapping else _checked(value, origin)

    def _any_of(self, value: Any, kinds: tuple[Any, ...], at: Place) -> Any:
        if type(None) in kinds and (value is None or (self.text and str(value).lower() == "none")):
            return None
        *others, last = (kind for kind in kinds if kind is not type(None))
        for kind in others:
            with suppress(_Mismatch):
                return self._value(value, kind, at)
        return self._value(value, last, at)

    def _choice(self, value: Any, choices: tuple[Any, ...]) -> Any:
        for choice in choices:
            if value == choice or (self.text and str(value) == str(choice)):
                return choice
        near = _nearest(value, map(str, choices))
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise _Mismatch(f"one of {', '.join(map(str, choices))}{hint}")

    def _items(self, value: Any, kind: Any, at: Place) -> list[Any]:
        if self.text and isinstance(value, str):
            value = split_commas(value.removeprefix("[").removesuffix("]"))
        items = value if isinstance(value, (list, tuple)) else [value]
        found = []
        for index, item in enumerate(items):
            try:
                found.append(self._value(item, kind, (*at, index)))
            except _Mismatch as wanted:
                texts = "a text or a list of texts"
                whole = texts if kind is str else f"a list, each item {wanted}"
                given = (
                    f"a list with {_shown(item)} in it" if items is value and not self.text else ""
                )
                raise _Mismatch(whole, given) from None
        return found


def _nearest(value: Any, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(value, known, 1, 0.5) if isinstance(value, str) else []


def split_commas(text: str) -> list[str]:
    """The entries of `a,b=[c,d]`: a comma inside square brackets does not separate."""
    entries = re.split(r",(?![^\[]*\])", text)
    return [entry for entry in entries if entry.strip()]


def _parsed(text: str, kind: type) -> Any:
    try:
        return _TRUTHS[text.lower()] if kind is bool else kind(text)
    except (KeyError, TypeError, ValueError):
        raise _Mismatch(_NAMES.get(kind, kind.__name__)) from None


def _checked(value: Any, kind: type) -> Any:
    count = type(value) is int and abs(value) < _MOST
    if count and kind in (float, str):
        return kind(value)  # learning_rate: 1, lanes: 4, prefix: 5
    if not (count if kind is int else isinstance(value, kind)):
        wanted = "a mapping" if dataclasses.is_dataclass(kind) else kind.__name__
        raise _Mismatch(_NAMES.get(kind, wanted))
    return value


def _shown(value: Any) -> str:
    """A value in a sentence; never whole, since a few lines of aliases can stand for gigabytes."""
    if isinstance(value, (list, tuple, set, dict)):
        return "a mapping" if isinstance(value, dict) else "a list"
    endless = isinstance(value, int) and abs(value) >= _MOST
    return "a number of so many digits" if endless else reprlib.repr(value)
