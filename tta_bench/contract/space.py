"""A method whose parameters may be sets of values: `dynamic-eval:lr=1e-5|3e-5,subset=all|mlp`."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tta_bench.contract.choice import MethodChoice, choose
from tta_bench.contract.registry import load
from tta_bench.contract.spec import split_set, split_spec, split_stack
from tta_bench.errors import UsageError


@dataclass(frozen=True)
class SpacePart:
    """One part of a stack: its name, and the values of each parameter that is given, as text."""

    name: str
    values: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Space:
    """A method or a stack, of which parameters may have several values.

    Parameters go by the names of `flat`: plain ones, in a stack `PART.NAME` with parts numbered
    from 0 at the bottom.

    Attributes:
        parts: the parts of the stack, the bottom first; one for a single method.
    """

    parts: tuple[SpacePart, ...]

    @classmethod
    def of(cls, spec: str) -> Space:
        """The space that a spec with sets names.

        Raises:
            UsageError: it is not of the form NAME:key=value|value,...+NAME:...
        """
        parts = [split_spec(part) for part in split_stack(spec)]
        return cls(
            tuple(
                SpacePart(name, {key: tuple(split_set(text)) for key, text in values.items()})
                for name, values in parts
            )
        )

    @property
    def method(self) -> str:
        """The method's name; of a stack those of its parts, joined by `+`."""
        return "+".join(part.name for part in self.parts)

    @property
    def spec(self) -> str:
        """What `of` makes this space of."""
        return self._written({})

    @property
    def sets(self) -> dict[str, tuple[str, ...]]:
        """The values of each parameter that has several, in the order written."""
        return {
            self._flat(number, key): values
            for number, part in enumerate(self.parts)
            for key, values in part.values.items()
            if len(values) > 1
        }

    def label(self, parameter: str) -> str:
        """What people call a parameter: its name, in a stack with that of its part."""
        number, _, key = parameter.rpartition(".")
        return f"{self.parts[int(number)].name}.{key}" if number else key

    def kind(self, parameter: str) -> type | None:
        """`int` or `float` where the parameter is such a number, else None.

        Raises:
            UsageError: there is no such method.
            MethodError: the method cannot be imported.
        """
        number, _, key = parameter.rpartition(".")
        declared = typing.get_type_hints(load(self.parts[int(number or 0)].name).Params).get(key)
        kinds: tuple[Any, ...] = typing.get_args(declared) or (declared,)
        if typing.get_origin(declared) is typing.Literal:
            return None
        return next((kind for kind in (float, int) if kind in kinds), None)

    def combinations(self) -> Iterator[dict[str, str]]:
        """A value for each parameter that has several; that of the last one changes fastest."""
        sets = self.sets
        for values in itertools.product(*sets.values()):
            yield dict(zip(sets, values, strict=True))

    def choice(self, values: Mapping[str, str]) -> MethodChoice:
        """The method with these values of the parameters that have several.

        Raises:
            UsageError: the method refuses them.
            MethodError: it cannot be imported.
        """
        return choose(self._written(values))

    def choices(self) -> list[MethodChoice]:
        """The methods of all combinations.

        Raises:
            UsageError: a method refuses its values, or two combinations are one method.
            MethodError: a method cannot be imported.
        """
        found: dict[str, MethodChoice] = {}
        for values in self.combinations():
            choice = self.choice(values)
            if choice.spec in found:
                raise UsageError(
                    f"two combinations of '{self.spec}' are the same method, {choice.spec}; leave "
                    "one out."
                )
            found[choice.spec] = choice
        return list(found.values())

    def _flat(self, number: int, key: str) -> str:
        return key if len(self.parts) == 1 else f"{number}.{key}"

    def _written(self, chosen: Mapping[str, str]) -> str:
        """The spec with single values for parameters that are chosen, and sets for the others."""
        written = []
        for number, part in enumerate(self.parts):
            values = [
                f"{key}={chosen.get(self._flat(number, key)) or '|'.join(members)}"
                for key, members in part.values.items()
            ]
            written.append(f"{part.name}:{','.join(values)}" if values else part.name)
        return "+".join(written)
