"""`name:key=value,key=value` -> a method's name and its checked hyper-parameters."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tta_bench.convert import Converter, split_commas
from tta_bench.errors import UsageError

_JOINT = re.compile(r"\+(?=\s*[a-z][a-z0-9-]*\s*(?::|\+|$))(?![^\[]*\])")
"""A plus with a method's name after it: `lr=1e+4` and `weights=a+b.gguf` are values."""

_BAR = re.compile(r"\|(?![^\[]*\])")


def split_stack(spec: str) -> list[str]:
    """The parts of `window:context=256+neural-cache`, the bottom first.

    Raises:
        UsageError: the whole or a part is empty.
    """
    if not spec.strip():
        raise UsageError("a method has an empty name; write NAME or NAME:key=value,...")
    parts = [part.strip() for part in _JOINT.split(spec)]
    if not all(part.strip("+ ") and not part.endswith("+") for part in parts):
        raise UsageError(f"'{spec}' has an empty part; write NAME+NAME.")
    return parts


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Splits `dynamic-eval:lr=1e-4,subset=mlp` into the name and its raw values.

    A comma inside square brackets does not separate: `targets=[q_proj,v_proj]`.

    Raises:
        UsageError: an entry that is not `key=value`, or a key given twice.
    """
    name, _, rest = spec.partition(":")
    values: dict[str, str] = {}
    for entry in split_commas(rest):
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


def split_set(value: str) -> list[str]:
    """The members of a set of values: `1e-5|3e-5` has two, any other value is its only one.

    A bar inside square brackets does not separate.

    Raises:
        UsageError: a member is empty.
    """
    members = [member.strip() for member in _BAR.split(value)]
    if len(members) > 1 and not all(members):
        raise UsageError(f"'{value}' has an empty value in it; write VALUE|VALUE.")
    return members


def build(params_class: type, values: dict[str, Any], method: str) -> Any:
    """An instance of the `Params` dataclass from raw values (strings, or YAML scalars).

    Raises:
        UsageError: an unknown key (with the closest known one), a value of the wrong type, or a
            value that the dataclass itself refuses (its `__post_init__` raises ValueError).
    """
    converter = Converter(f"method '{method}'", noun="parameter", text=True)
    return converter.make(params_class, values)


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
