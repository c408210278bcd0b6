"""How far a plot reaches: a few points far from all others would flatten the rest."""

from __future__ import annotations

from collections.abc import Sequence

MOST, FAR = 0.75, 3.0
"""A plot of runs reaches beyond the best MOST of them by FAR times their range, and no further."""
FEW = 0.05
"""The part of a figure's points on either side that has no say in its range; at least one point."""
BAND_REACH = 0.75
"""How far beyond the crowd of points others are seen, and bands, as a part of the crowd's height.
With two documents a band would reach many times as far."""


def near(values: Sequence[float], least: float = 0.0) -> float:
    """The largest value that a plot should reach: a few far above all others would flatten them.

    Args:
        values: one or more.
        least: how far beyond the best MOST of them others are seen, however close those lie.
    """
    rising = sorted(values)
    inner = rising[int(MOST * (len(rising) - 1))]
    reach = max(FAR * (inner - rising[0]), least)
    return max(value for value in rising if value <= inner + reach) if reach else rising[-1]


def crowd(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value that a plot should reach; 0 and 1 without values.

    A bucket of few tokens, such as the first position of each document, may lie far off all others.
    """
    rising = sorted(values)
    if not rising:
        return 0.0, 1.0
    few = max(1, int(FEW * len(rising)))
    inner = rising[few:-few]
    height = inner[-1] - inner[0] if inner else 0.0
    if height == 0:
        return rising[0], rising[-1]
    low, high = inner[0] - BAND_REACH * height, inner[-1] + BAND_REACH * height
    seen = [value for value in rising if low <= value <= high]
    return seen[0], seen[-1]
