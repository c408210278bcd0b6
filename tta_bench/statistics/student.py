"""Student's t with whole degrees of freedom (Abramowitz & Stegun 26.7), without scipy."""

from __future__ import annotations

import math
from functools import lru_cache

SERIES_LIMIT = 1000
"""Degrees of freedom up to which the finite series is summed; the expansion is exact to 1e-12
beyond it."""


@lru_cache(maxsize=256)
def t_quantile(probability: float, degrees: int) -> float:
    """The `probability` quantile of Student's t with an integer number of degrees of freedom.

    Bisection over Abramowitz & Stegun's finite series (26.7.3 and 26.7.4); beyond SERIES_LIMIT
    degrees, their expansion about the normal quantile (26.7.5).

    Raises:
        ValueError: `probability` not strictly between 0 and 1, or `degrees` below 1.
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError("a probability between 0 and 1 and at least one degree are needed.")
    if probability == 0.5:
        return 0.0
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    if degrees > SERIES_LIMIT:
        return _t_expansion(probability, degrees)
    inside = 2 * probability - 1  # P(|T| < t)
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(degrees))
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return math.sqrt(degrees) * math.tan(middle)
        low, high = (middle, high) if _inside(middle, degrees) < inside else (low, middle)


def t_p_value(value: float, standard_error: float, degrees: int) -> float:
    """Two-sided p of a value under the null that it is zero: P(|T| >= |value| / standard_error).

    Exact to 1e-13, absolutely; 1 where the value is zero and 0 where only its error is.
    """
    if value == 0:
        return 1.0
    if standard_error == 0:
        return 0.0
    angle = math.atan(abs(value) / standard_error / math.sqrt(degrees))
    return min(1.0, max(0.0, 1.0 - _inside(angle, degrees)))


def _inside(angle: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) tan(angle))."""
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2 == 1
    if degrees == 1:
        return 2 * angle / math.pi
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _t_expansion(probability: float, degrees: int) -> float:
    from statistics import NormalDist

    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))
