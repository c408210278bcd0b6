"""Sign flips and the bootstrap over documents; both seeded, both with the document as the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

EXACT_DOCUMENTS = 15
"""Most documents with which all of the 2^G sign patterns are tried."""

BOOTSTRAP_DOCUMENTS = 40
"""With fewer documents a bootstrap covers too little: 79 % at 5, 88 % at 10, 93 % at 20."""

RESAMPLES = 10_000
_BLOCK = 1_000_000  # random numbers held at once


def sign_flip_p(
    sums: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> float | None:
    """Two-sided permutation p of paired differences: under the null each D_g may have either sign.

    The statistic is |sum D_g|; the tokens below it are the same under every pattern. Up to
    EXACT_DOCUMENTS documents all 2^G patterns are counted, so p is at least 2^(1-G); beyond, p is
    (b + 1) / (resamples + 1) of seeded random patterns (Phipson & Smyth 2010), never zero.

    Args:
        sums: [G] D_g, the summed difference of each document.

    Returns:
        None for fewer than two documents.
    """
    import numpy as np

    count = len(sums)
    if count < 2:
        return None
    values = np.asarray(sums, dtype=np.float64)
    # Patterns that give the same sum in another order of addition must count as equal.
    least = abs(math.fsum(sums)) - 1e-12 * float(np.abs(values).sum())
    if count <= EXACT_DOCUMENTS:
        totals = np.zeros(1)
        for value in values[1:]:  # the first sign stays: the other half mirrors this one
            totals = np.concatenate([totals + value, totals - value])
        return float(np.mean(np.abs(totals + values[0]) >= least))
    random = np.random.default_rng(seed)
    reached, left = 0, resamples
    while left:
        size = min(left, max(1, _BLOCK // count))
        signs = random.integers(0, 2, (size, count), dtype=np.int8)
        totals = (2.0 * signs - 1.0) @ values
        reached += int(np.count_nonzero(np.abs(totals) >= least))
        left -= size
    return (reached + 1) / (resamples + 1)


def bootstrap_interval(
    sums: Sequence[float],
    sizes: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of sum S_g / sum n_g; documents are drawn anew, whole, with their sizes.

    Returns:
        None for fewer than BOOTSTRAP_DOCUMENTS documents.
    """
    import numpy as np

    count = len(sums)
    if count < BOOTSTRAP_DOCUMENTS:
        return None
    values, tokens = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    random = np.random.default_rng(seed)
    ratios: list[np.ndarray] = []
    left = resamples
    while left:
        size = min(left, max(1, _BLOCK // count))
        drawn = random.integers(0, count, (size, count))
        ratios.append(values[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
        left -= size
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return float(low), float(high)
