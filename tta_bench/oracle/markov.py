"""Chains of a fixed order whose rows come from a Dirichlet; of order 0, independent symbols."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tta_bench.oracle.chain import chain_losses, check_size, rows, walk
from tta_bench.oracle.stream import Draws, Losses, Stream, Symbols, at_least

LEAST_ALPHA = 0.02
"""Below it, all gamma variates of a row may be too small for a number."""


@dataclass(frozen=True)
class Chain(Stream):
    """A chain of order `order`.

    Attributes:
        alpha: parameter of the symmetric Dirichlet; the lower, the fewer symbols follow a context.
        order: symbols of context.
    """

    alpha: float = 0.5
    order: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("alpha", self.alpha, LEAST_ALPHA)
        check_size(self.order, self.symbols)

    def table(self, draws: Draws) -> Losses:
        """[symbols**order, symbols] The rows of a document."""
        return rows(draws.of("rows"), self.symbols**self.order, self.symbols, self.alpha)

    def _draw(self, draws: Draws, length: int) -> Symbols:
        every = np.arange(self.symbols**self.order)
        return walk(self.table(draws), every, self.order, draws, length)

    def losses(self, read: Symbols) -> Losses:
        return chain_losses(read, self.order, self.symbols, self.alpha)
