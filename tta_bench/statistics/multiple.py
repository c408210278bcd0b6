"""Several comparisons at once: Holm's correction, and tiers of rows that cannot be told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

LEVEL = 0.05


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down adjusted p, in the order given; a None is no test and stays None.

    The k-th smallest of m becomes max over j <= k of min(1, (m - j + 1) p_(j)): rejecting what is
    at most alpha keeps the chance of any false rejection at alpha, however the tests depend.
    """
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def holm_pairs(
    losses: Sequence[float | None], p_value: Callable[[int, int], float | None]
) -> dict[tuple[int, int], float | None]:
    """Adjusted p of every pair of ranked rows (i, j), i < j, by Holm over all of those pairs.

    Args:
        losses: a loss for each row; None is not ranked and in no pair.
        p_value: the p of a pair of rows; None if it cannot be tested.
    """
    ranked = [i for i, loss in enumerate(losses) if loss is not None]
    pairs = list(combinations(ranked, 2))
    return dict(zip(pairs, holm([p_value(*pair) for pair in pairs]), strict=True))


def tiers(
    losses: Sequence[float | None],
    p_value: Callable[[int, int], float | None],
    level: float = LEVEL,
) -> list[int | None]:
    """The tier of each row, 1 the best.

    Every pair of rows is tested and the p values adjusted by Holm over all of those pairs; a pair
    is told apart if its adjusted p is below `level`. From the lowest loss downwards, a row that is
    told apart from the first row of the current tier opens the next tier; otherwise it joins. So a
    row shares a tier with the tier's best row because the two cannot be told apart; two later rows
    of one tier may still differ.

    Args:
        losses: what the rows are ordered by, lower is better; None is not ranked and has no tier.
        p_value: the p of the pair of rows (i, j), i < j; None if it cannot be tested, which tells
            nothing apart.
    """
    ranked = sorted((loss, i) for i, loss in enumerate(losses) if loss is not None)
    adjusted = holm_pairs(losses, p_value)
    result: list[int | None] = [None] * len(losses)
    tier, first = 0, -1
    for _, i in ranked:
        p = None if first < 0 else adjusted[min(first, i), max(first, i)]
        if first < 0 or (p is not None and p < level):
            tier, first = tier + 1, i
        result[i] = tier
    return result
