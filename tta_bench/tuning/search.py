"""The search for the best point: a grid, then one parameter after another, beyond the ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

from tta_bench.tuning.axis import Axis

Point = tuple[str, ...]
"""A value for each axis, as text."""

Edge = Literal["bound", "allowed"]
"""Why a best value lies at an end: values went on to the bound, or the method allows no more."""


class Search:
    """Finds the point of the lowest loss and measures no point twice.

    Args:
        axes: the parameters; values beyond the ends of scales are added to them.
        measure: the losses of points; None where a point cannot be chosen.
        allowed: whether the method takes a point.

    Attributes:
        losses: the loss of each point that was measured, in order.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        measure: Callable[[Sequence[Point]], Sequence[float | None]],
        allowed: Callable[[Point], bool],
    ):
        self.axes = list(axes)
        self.losses: dict[Point, float | None] = {}
        self._measure, self.allows = measure, allowed

    @property
    def best(self) -> Point | None:
        """The point of the lowest loss, of equal ones the first; None if none can be chosen."""
        known = [(loss, point) for point, loss in self.losses.items() if loss is not None]
        return min(known, key=lambda pair: pair[0])[1] if known else None

    def grid(self) -> None:
        """Measures every combination; the value of the last axis changes fastest."""
        self.measure(list(itertools.product(*(axis.values for axis in self.axes))))

    def measure(self, points: Sequence[Point]) -> None:
        """Measures the points that were not measured yet."""
        fresh = [point for point in dict.fromkeys(points) if point not in self.losses]
        if fresh:
            self.losses |= dict(zip(fresh, self._measure(fresh), strict=True))

    def refine(self) -> None:
        """Measures one axis after another through the best point, until the best lies between its
        two neighbours on every scale, or the scale ends, and every other set is measured there.
        """
        settled = 0
        for place in itertools.cycle(range(len(self.axes))):
            fresh = self._fresh(place)
            self.measure(fresh)
            settled = 0 if fresh else settled + 1
            if settled == len(self.axes):
                return

    def edges(self) -> list[Edge | None]:
        """For each axis, why its best value lies at an end of the scale; None where it does not."""
        best = self.best
        if best is None:
            return [None] * len(self.axes)
        found: list[Edge | None] = []
        for axis, value in zip(self.axes, best, strict=True):
            side = axis.end(value)
            bound = side and axis.bounded(side)
            found.append("bound" if bound else "allowed" if side else None)
        return found

    def _fresh(self, place: int) -> list[Point]:
        """What is left to measure along an axis through the best point."""
        best, axis = self.best, self.axes[place]
        if best is None:
            return []
        line = [_moved(best, place, value) for value in axis.beside(best[place])]
        fresh = [p for p in line if p not in self.losses and self.allows(p)]
        side = axis.end(best[place])
        if fresh or not side:
            return fresh
        value = axis.beyond(side)
        if value is None:
            return []
        point = _moved(best, place, value)
        if not self.allows(point):
            return []
        axis.add(value)
        return [point]


def _moved(point: Point, place: int, value: str) -> Point:
    return (*point[:place], value, *point[place + 1 :])
