"""Values in JSON's types, without private paths, and flattened to their leaves."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def jsonable(value: Any) -> Any:
    """The value in the types of JSON; what JSON cannot hold, such as infinity, becomes text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def leaves(value: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a nested object by dotted name; an empty object inside it is a leaf too."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            found |= {f"{name}.{inner}": leaf for inner, leaf in leaves(item).items()}
        else:
            found[str(name)] = item
    return found


def without_private_paths(value: Any) -> Any:
    """A JSON value in whose strings the home folder is `~` and the working folder is left out."""
    folders: dict[str, str] = {}
    for short, folder in (("~", Path.home()), (".", Path.cwd())):
        folders |= {str(path): short for path in (folder, folder.resolve())}
    rules = []
    for path in sorted(folders, key=len, reverse=True):  # the inner of two nested folders first
        if len(Path(path).parts) == 1:  # the root of the file system is not private
            continue
        whole, short = rf"(?<![\w.~-]){re.escape(path)}", folders[path]
        if short == ".":
            rules.append((re.compile(rf"{whole}/+(?=[^/\s])"), ""))
        rules.append((re.compile(rf"{whole}(?![\w.-])"), short))
    return _replaced(value, rules)


def _replaced(value: Any, rules: Sequence[tuple[re.Pattern[str], str]]) -> Any:
    if isinstance(value, dict):
        return {_replaced(key, rules): _replaced(item, rules) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, rules) for item in value]
    if isinstance(value, str):
        for pattern, short in rules:
            value = pattern.sub(short, value)
    return value
