"""A parameter with a set of values, and how the set of a scale goes on beyond its ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tta_bench.contract.space import Space

MOST_BEYOND = 6
"""Most values that a set gets beyond either end. Six steps of the usual factor 3 are nearly three
decades: whoever missed by more has a mistake in the set, and each step costs a trial."""
_DIGITS = 3
"""Digits of a value beyond an end: nobody tells apart step sizes that differ by less."""


@dataclass
class Axis:
    """One parameter of a search.

    Attributes:
        name: of the parameter, as `Space` names it.
        values: as text: those that were given, in their order, then those beyond the ends.
        kind: `float` or `int` where the values are a scale: numbers of at least 0, two of them
            above it. None for any other set, which has no ends.
        given: how many of the values were given.
    """

    name: str
    values: list[str]
    kind: type | None
    given: int = field(init=False)

    def __post_init__(self) -> None:
        self.given = len(self.values)

    @classmethod
    def of(cls, space: Space, name: str) -> Axis:
        """The axis of a parameter that has several values.

        Raises:
            UsageError: there is no such method.
        """
        values = list(space.sets[name])
        kind = space.kind(name)
        return cls(name, values, kind if kind is not None and _is_scale(values) else None)

    @property
    def ordered(self) -> list[str]:
        """The values of a scale from the lowest to the highest."""
        return sorted(self.values, key=float)

    def beside(self, value: str) -> list[str]:
        """The neighbours of a value on a scale; of any other set all other values."""
        if self.kind is None:
            return [other for other in self.values if other != value]
        ordered = self.ordered
        place = ordered.index(value)
        return [*ordered[max(0, place - 1) : place], *ordered[place + 1 : place + 2]]

    def end(self, value: str) -> int:
        """-1 where the value is the lowest of a scale, 1 where it is the highest, else 0."""
        if self.kind is None:
            return 0
        ordered = self.ordered
        return {ordered[0]: -1, ordered[-1]: 1}.get(value, 0)

    def beyond(self, side: int) -> str | None:
        """The next value beyond the lowest (-1) or highest (1), by the factor at that end.

        None where the scale has none: below 0, below a whole number of 1, or where it has got
        MOST_BEYOND already.
        """
        ordered = self.ordered
        first = ordered if side < 0 else ordered[::-1]
        edge, inner = float(first[0]), float(first[1])
        if edge == 0 or self.bounded(side):
            return None
        value = edge * (edge / inner) if inner else 0.0
        if self.kind is int:
            whole = round(value)
            whole = max(whole, int(edge) + 1) if side > 0 else min(whole, int(edge) - 1)
            return str(whole) if whole >= 1 else None
        text = f"{value:.{_DIGITS}g}"
        return text if math.isfinite(value) and 0 < float(text) != edge else None

    def add(self, value: str) -> None:
        """Takes a value beyond an end among those of the axis."""
        self.values.append(value)

    def bounded(self, side: int) -> bool:
        """Whether MOST_BEYOND values lie beyond the lowest (-1) or highest (1) of those given."""
        given = [float(value) for value in self.values[: self.given]]
        end = min(given) if side < 0 else max(given)
        beyond = sum((float(value) - end) * side > 0 for value in self.values[self.given :])
        return beyond >= MOST_BEYOND


def _is_scale(values: Sequence[str]) -> bool:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return False
    return all(0 <= n < math.inf for n in numbers) and sum(n > 0 for n in numbers) >= 2
