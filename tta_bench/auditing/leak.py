"""A run on a stream whose best possible reader is known: whoever reads better has seen the answers.

Let M be the probability that a method gave to what it read, over that of the best reader. Since the
best reader's probabilities are those that the stream was drawn by, given all that can be read, M is
on average at most 1, whatever the method and the number of documents; by Markov's inequality it
reaches 1 / p with a probability of at most p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tta_bench.auditing.finding import Finding
from tta_bench.format import count

CHANCE = 1e-7
"""Probability that an honest method fails in one of some 20 groups of tokens."""

TOLERANCE = 0.002
"""Nats per token that rounding may gain: probabilities sum to one nearly."""


def leak_finding(losses: Sequence[np.ndarray], best: Sequence[np.ndarray]) -> Finding:
    """Whether a method beats the best reader, over all tokens or from some token of documents on.

    Args:
        losses: [n] nats of each document.
        best: [n] those of the best reader that must find the alphabet.
    """
    gains = [np.subtract(b, mine, dtype=np.float64) for b, mine in zip(best, losses, strict=True)]
    start, worst = 0, -math.inf
    while start < max(map(len, gains)):
        tokens = sum(max(len(gain) - start, 0) for gain in gains)
        total = math.fsum(float(gain[start:].sum()) for gain in gains)
        if total > -math.log(CHANCE) and total > TOLERANCE * tokens:
            sentence = (
                f"{count(tokens)} tokens, those from token {start} of each document on, cost "
                f"{total:.0f} nats less than the best possible reader loses: they were seen early."
            )
            return Finding("leak", "fail", total / tokens, sentence)
        worst = max(worst, total / tokens)
        start = 2 * start or 256
    sentence = f"no part of it is read better than by the best possible reader ({worst:+.3g} nats)."
    return Finding("leak", "pass", worst, sentence)
