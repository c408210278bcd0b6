"""A method as the user named it, or a stack of methods, with its parameters checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tta_bench.contract.method import Method
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build, split_set, split_spec, split_stack, to_spec
from tta_bench.contract.stack import PartParams, StackParams, stack_of
from tta_bench.errors import UsageError


class MethodChoice(NamedTuple):
    """A method as the user named it, checked."""

    name: str
    cls: type[Method]
    params: Any

    @property
    def spec(self) -> str:
        """The shortest spec that names it."""
        if not isinstance(self.params, StackParams):
            return to_spec(self.name, self.params)
        return "+".join(to_spec(part.name, part.params) for part in self.params.parts)


def choose(spec: str) -> MethodChoice:
    """The method or stack that `NAME:key=value,...+NAME:...` names.

    Raises:
        UsageError: an unknown method or parameter, methods that cannot stand on each other, or a
            set of values, which names several methods (`Space`).
        MethodError: a method cannot be imported.
    """
    parts = [split_spec(part) for part in split_stack(spec)]
    for name, values in parts:
        for key, value in values.items():
            if len(split_set(value)) > 1:
                raise UsageError(
                    f"'{key}={value}' of {name} names several methods, and here goes one; write "
                    "one value."
                )
    return _stacked([_chosen(*part) for part in parts])


def choose_with(name: str, params: Mapping[str, Any]) -> MethodChoice:
    """The method or stack of this name with these parameters, as a manifest holds them.

    Raises:
        UsageError: an unknown method or parameter, or methods that cannot stand on each other.
        MethodError: a method cannot be imported.
    """
    names = name.split("+")
    if len(names) == 1:
        return _chosen(name, dict(params))
    parts = params.get("parts")
    if not isinstance(parts, Sequence) or len(parts) != len(names):
        raise UsageError(f"the parameters of '{name}' do not name those of its parts.")
    return _stacked(
        [_chosen(own, dict(part["params"])) for own, part in zip(names, parts, strict=True)]
    )


def _chosen(name: str, values: dict[str, Any]) -> MethodChoice:
    cls = load(name)
    return MethodChoice(name, cls, build(cls.Params, values, name))


def _stacked(parts: Sequence[MethodChoice]) -> MethodChoice:
    if len(parts) == 1:
        return parts[0]
    cls = stack_of(tuple(part.name for part in parts), tuple(part.cls for part in parts))
    params = StackParams(tuple(PartParams(part.name, part.params) for part in parts))
    return MethodChoice(cls.name, cls, params)
