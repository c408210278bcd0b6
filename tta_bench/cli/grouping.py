"""Options in groups: a dataclass is declared once and becomes options of every command it is in."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command for Typer, which reads options from a signature.

    A parameter annotated with a dataclass stands there for one option a field; the command itself
    gets an instance of it.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            groups[name] = hints[name]
            options += _options_of(hints[name])
        else:
            options.append(_option(name, parameter.default, hints[name]))

    def callback(**values: Any) -> None:
        for name, group in groups.items():
            fields = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = group(**fields)
        command(**values)

    callback.__name__, callback.__doc__ = command.__name__, command.__doc__
    callback.__annotations__ = {option.name: option.annotation for option in options}
    callback.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return callback


def _options_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [_option(f.name, f.default, hints[f.name]) for f in dataclasses.fields(group)]


def _option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
