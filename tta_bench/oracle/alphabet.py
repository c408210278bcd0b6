"""Which tokens the symbols are, and what it costs to find out.

The alphabet of a document is drawn uniformly, without replacement, from a vocabulary of E tokens.
A source treats the symbols of a class alike, so a reader who has seen t tokens, t_c of them of the
class, can do no better than to spread what it gives to the V_c - t_c unseen symbols of a class
evenly over the E - t unseen tokens. That is the exact escape under this prior: at the first sight
of a symbol it costs ln (E - t) / (V_c - t_c) more, and nothing ever after.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tta_bench.oracle.counting import apart, earlier
from tta_bench.oracle.stream import Draws, Losses, Stream, Symbols


def draw_alphabet(stream: Stream, document: int, vocabulary: int) -> NDArray[np.int64]:
    """[symbols] Places in a vocabulary of that size, one for each symbol.

    Raises:
        ValueError: the vocabulary is too small.
    """
    count = sum(stream.classes)
    if count > vocabulary:
        raise ValueError(
            f"{count:,} symbols are more than the {vocabulary:,} tokens to draw them from."
        )
    return Draws(stream.seed, document).of("alphabet").permutation(vocabulary)[:count]


def alphabet_costs(stream: Stream, read: Symbols, vocabulary: int) -> Losses:
    """[documents, n] What not knowing the alphabet costs, nats.

    Args:
        stream: the source.
        read: [documents, n] its symbols.
        vocabulary: E, the tokens that symbols are drawn from.
    """
    count = sum(stream.classes)
    new = earlier(apart(read, count).ravel()).reshape(read.shape) == 0
    seen = np.cumsum(new, axis=1) - new
    costs = np.zeros(read.shape)
    start = 0
    for size in stream.classes:
        of_class = new & (start <= read) & (read < start + size)
        among = np.cumsum(of_class, axis=1) - of_class
        left = (vocabulary - seen) / np.maximum(size - among, 1)
        costs[of_class] = np.log(left[of_class])
        start += size
    return costs
