"""A method as YAML has it, a mapping of names to parameters, as the spec that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tta_bench.errors import UsageError

_MOST = 2**63  # no person means a larger whole number, and Python does not print much larger ones


def spec_of(method: Mapping[Any, Any]) -> str:
    """The spec of `{dynamic-eval: {lr: [1e-5, 3e-5], subset: mlp}}`.

    A mapping of several names is a stack, the first at the bottom. A list is a set of values; a
    list inside it is a value that is a list.

    Raises:
        UsageError: it is not of this form, or holds text that a spec cannot.
    """
    if not method:
        raise UsageError("a method has an empty name; write NAME: {key: value}.")
    return "+".join(_part(name, values) for name, values in method.items())


def _part(name: Any, values: Any) -> str:
    if not isinstance(name, str) or any(sign in name for sign in ":,=+|"):
        raise UsageError(f"a method's name must be text without :,=+|, not {_quoted(name)}.")
    if values is None or values == {}:
        return name
    if not isinstance(values, Mapping):
        raise UsageError(
            f"the parameters of {name} must be a mapping of names to values, such as "
            f"{{{name}: {{lr: [1e-5, 3e-5]}}}}."
        )
    written = []
    for key, value in values.items():
        if not isinstance(key, str):
            raise UsageError(
                f"a parameter of {name} must have text for a name, not {_quoted(key)}."
            )
        written.append(f"{key}={_set(value, key)}")
    return f"{name}:{','.join(written)}"


def _set(value: Any, key: Any) -> str:
    if not isinstance(value, list):
        return _text(value, key)
    if not value:
        raise UsageError(f"'{key}' has an empty list of values; name one or leave it out.")
    return "|".join(_listed(v, key) if isinstance(v, list) else _text(v, key) for v in value)


def _listed(value: list[Any], key: Any) -> str:
    return "[" + ",".join(_text(item, key) for item in value) + "]"


def _text(value: Any, key: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    text = isinstance(value, str) and "," not in value
    if not (text or isinstance(value, float) or (isinstance(value, int) and abs(value) < _MOST)):
        raise UsageError(
            f"a value of '{key}' must be a number, true, false or text without commas, not "
            f"{_quoted(value)}."
        )
    return str(value)


def _quoted(value: Any) -> str:
    """A value in a sentence; never whole, since a few lines of aliases can stand for gigabytes."""
    if isinstance(value, (list, dict)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= _MOST:
        return "a number of so many digits"
    return repr(str(value)[:40])
