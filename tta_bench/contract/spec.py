"""`name:key=value,key=value` -> a method's name and its checked hyper-parameters."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any

from tta_bench.errors import UsageError


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Splits `dynamic-eval:lr=1e-4,subset=mlp` into the name and its raw values.

    A comma inside square brackets does not separate: `targets=[q_proj,v_proj]`.

    Raises:
        UsageError: an entry that is not `key=value`, or a key given twice.
    """
    name, _, rest = spec.partition(":")
    values: dict[str, str] = {}
    for entry in _split_commas(rest):
        key, equals, value = entry.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(
                f"'{entry}' in '{spec}' is not key=value; write {name}:key=value,key=value."
            )
        if key in values:
            raise UsageError(f"'{key}' is given twice in '{spec}'.")
        values[key] = value.strip()
    return name.strip(), values


def _split_commas(text: str) -> list[str]:
    entries, depth, current = [], 0, ""
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            entries.append(current)
            current = ""
        else:
            current += character
    return [entry for entry in [*entries, current] if entry.strip()]


def build(params_class: type, values: dict[str, Any], method: str) -> Any:
    """An instance of the `Params` dataclass from raw values (strings, or YAML scalars).

    Raises:
        UsageError: an unknown key (with the closest known one), a value of the wrong type, or a
            value that the dataclass itself refuses (its `__post_init__` raises ValueError).
    """
    fields = {field.name: field for field in dataclasses.fields(params_class)}
    hints = typing.get_type_hints(params_class)
    parsed = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            known = ", ".join(fields) or "none"
            hint = f"did you mean '{near[0]}'?" if near else f"its parameters: {known}."
            raise UsageError(f"method '{method}' has no parameter '{key}'; {hint}")
        parsed[key] = _convert(value, hints[key], f"parameter '{key}' of method '{method}'")
    try:
        return params_class(**parsed)
    except (TypeError, ValueError) as error:
        raise UsageError(f"method '{method}': {error}") from error


def _convert(value: Any, kind: Any, what: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        choices = [choice for choice in typing.get_args(kind) if choice is not type(None)]
        optional = len(choices) < len(typing.get_args(kind))
        if optional and (value is None or str(value).lower() == "none"):
            return None
        return _convert(value, choices[0], what)
    if origin is typing.Literal:
        allowed = [str(choice) for choice in typing.get_args(kind)]
        if str(value) not in allowed:
            near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(allowed)}."
            raise UsageError(f"{what} cannot be '{value}'; {hint}")
        return typing.get_args(kind)[allowed.index(str(value))]
    if origin in (list, tuple) or kind in (list, tuple):
        items = value if isinstance(value, (list, tuple)) else _split_commas(str(value).strip("[]"))
        inner = (typing.get_args(kind) or (str,))[0]
        converted = [_convert(item, inner, what) for item in items]
        return tuple(converted) if (origin or kind) is tuple else converted
    if kind is bool:
        truths = {"true": True, "yes": True, "1": True, "on": True}
        truths |= {"false": False, "no": False, "0": False, "off": False}
        if str(value).lower() not in truths:
            raise UsageError(f"{what} must be true or false, not '{value}'.")
        return truths[str(value).lower()]
    if kind in (int, float):
        try:
            return int(str(value)) if kind is int else float(str(value))
        except ValueError as error:
            word = "a whole number" if kind is int else "a number"
            raise UsageError(f"{what} must be {word}, not '{value}'.") from error
    return str(value)


def to_spec(name: str, params: Any) -> str:
    """The shortest spec that gives these parameters: only what differs from the defaults."""
    parts = []
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            parts.append(f"{field.name}={_show(value)}")
    return f"{name}:{','.join(parts)}" if parts else name


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value)
