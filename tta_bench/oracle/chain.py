"""Chains: the row of probabilities that a symbol is drawn from follows from the symbols before."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from tta_bench.oracle.counting import apart, contexts, earlier
from tta_bench.oracle.stream import Draws, Losses, Symbols

MOST = 1 << 20
"""Most probabilities of one source: a table of more would never be learned, and fills memory."""


def check_size(order: int, symbols: int) -> None:
    """Raises ValueError where the table of a source is too large."""
    if order < 0 or symbols ** (order + 1) > MOST:
        raise ValueError(
            f"{symbols} symbols after each of {symbols}^{order} contexts are more than {MOST:,} "
            "probabilities: choose fewer symbols or a lower order."
        )


def rows(random: np.random.RandomState, count: int, symbols: int, alpha: float) -> Losses:
    """[count, symbols] Rows drawn from the symmetric Dirichlet of that parameter."""
    return random.dirichlet(np.full(symbols, alpha), count)


def cumulative(table: Losses) -> Losses:
    """The rows' distribution functions; the last value is 1 in spite of rounding."""
    found = np.cumsum(table, axis=-1)
    found[..., -1] = 1.0
    return found


def walk(
    table: Losses, row_of: NDArray[np.int64], order: int, draws: Draws, length: int
) -> Symbols:
    """[length] A chain; its first `order` symbols are uniform.

    Args:
        table: [rows, symbols] probabilities.
        row_of: [symbols**order] the row of each context.
        order: symbols of context.
        draws: random numbers.
        length: symbols to draw.
    """
    symbols = table.shape[1]
    first = draws.of("first").random_sample(order)
    uniform = draws.of("symbols").random_sample(max(length - order, 0))
    start = (first * symbols).astype(np.int64)
    if order == 0:
        return np.searchsorted(cumulative(table)[row_of[0]], uniform, side="right")
    functions, chosen = cumulative(table).tolist(), row_of.tolist()
    size, context, found = symbols**order, 0, start.tolist()
    for symbol in found:
        context = (context * symbols + symbol) % size
    for value in uniform.tolist():
        symbol = bisect_right(functions[chosen[context]], value)
        found.append(symbol)
        context = (context * symbols + symbol) % size
    return np.array(found[:length], np.int64)


def log_rule(
    keys: NDArray[np.int64], read: NDArray[np.int64], symbols: int, alpha: float
) -> Losses:
    """[n] ln (n_a + alpha) / (n + alpha V), with counts among the earlier places of equal key.

    That is the exact predictive probability under a symmetric Dirichlet prior; with alpha = 1/2 it
    is the estimator of Krichevsky and Trofimov (1981).
    """
    own = earlier(keys * symbols + read)
    return np.log((own + alpha) / (earlier(keys) + alpha * symbols))


def chain_losses(read: Symbols, order: int, symbols: int, alpha: float) -> Losses:
    """[documents, n] The losses of a chain whose every context has a row of its own."""
    losses = np.full(read.shape, np.log(symbols))
    keys = apart(contexts(read, order, symbols), symbols**order)
    known = log_rule(keys.ravel(), read[:, order:].ravel(), symbols, alpha)
    losses[:, order:] = -known.reshape(keys.shape)
    return losses
