"""Symbols that come in bursts: the restaurant process of Pitman and Yor (Pitman 1995)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_bench.oracle.counting import apart, earlier
from tta_bench.oracle.stream import Draws, Losses, Stream, Symbols, between


@dataclass(frozen=True)
class Bursty(Stream):
    """With n symbols before, of t kinds, a kind that came n_a times comes again with probability
    (n_a - d) / (n + theta), and a new kind with (theta + d t) / (n + theta).

    Every new table serves a new symbol, so the tables can be read off the symbols and the predictor
    is exact. When all symbols have come, n_a - d is divided by n - d V. With d = 0 it is the
    process of Dirichlet.

    Attributes:
        d: discount: how heavy the tail of rare symbols is.
        theta: concentration: how many kinds there are early on.
    """

    symbols: int = 1024
    d: float = 0.4
    theta: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        between("d", self.d, 0, 1)
        between("theta", self.theta, 0, 1e9, "()")

    def _draw(self, draws: Draws, length: int) -> Symbols:
        """By pointers: a guest sits down with an earlier guest, or, where that one was the first of
        a table, with probability d at a new one; or at a new one at once.
        """
        place = np.arange(length)
        fresh = draws.of("new").random_sample(length) * (self.theta + place) < self.theta
        other = (draws.of("other").random_sample(length) * place).astype(np.int64)
        shy = draws.of("shy").random_sample(length) < self.d
        # Whether it is the first of a table: as the first guest along the pointers who is not shy.
        first = fresh[_end(np.where(fresh | ~shy, place, other))]
        if first.sum() > self.symbols:
            full = np.flatnonzero(first)[self.symbols]
            first[full:] = False
            other[full:] = self._seats(draws, first, full)
        served = draws.of("dishes").permutation(self.symbols)[np.cumsum(first) - 1]
        return served[_end(np.where(first, place, other))]

    def _seats(self, draws: Draws, first: NDArray[np.bool_], full: int) -> NDArray[np.int64]:
        """The earlier guests whom those from `full` on join, once every table is taken."""
        place = np.arange(full, len(first))
        other = np.zeros(len(place), np.int64)
        left, tries = np.ones(len(place), bool), 0
        while left.any():
            chosen = draws.of(f"seat {tries}").random_sample(len(first))[full:] * place
            shy = draws.of(f"shy {tries}").random_sample(len(first))[full:] < self.d
            chosen = chosen.astype(np.int64)
            taken = left & ~(first[chosen] & shy)
            other[taken] = chosen[taken]
            left &= ~taken
            tries += 1
        return other

    def losses(self, read: Symbols) -> Losses:
        own = earlier(apart(read, self.symbols).ravel()).reshape(read.shape)
        new = own == 0
        kinds = np.cumsum(new, axis=1) - new
        place = np.arange(read.shape[1])
        escape = (self.theta + self.d * kinds) / np.maximum(self.symbols - kinds, 1)
        full = kinds == self.symbols
        over = np.where(full, place - self.d * self.symbols, place + self.theta)
        return -np.log(np.where(new, escape, own - self.d) / over)


def _end(link: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each place ends that follows links to earlier places until one links to itself."""
    while True:
        further = link[link]
        if np.array_equal(further, link):
            return link
        link = further
