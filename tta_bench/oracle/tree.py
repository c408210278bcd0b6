"""Chains of variable order, and context-tree weighting (Willems, Shtarkov & Tjalkens 1995)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_bench.oracle.chain import check_size, log_rule, rows, walk
from tta_bench.oracle.counting import apart, contexts, earlier_sum
from tta_bench.oracle.markov import LEAST_ALPHA
from tta_bench.oracle.stream import Draws, Losses, Stream, Symbols, at_least, between


@dataclass(frozen=True)
class Tree(Stream):
    """A random tree of contexts: a node above the depth splits with a fixed probability into one
    child per symbol, and each leaf has a row drawn from a Dirichlet.

    The tree comes from the very prior that context-tree weighting averages over, so that is the
    exact predictor: P_w = (1 - split) P_e + split prod P_w(children), where P_e is the probability
    of a node's symbols by their counts. The first `depth` symbols are uniform.

    Attributes:
        alpha: parameter of the Dirichlet; 1/2 for the KT estimator.
        depth: most symbols of context.
        split: probability that a node above the depth splits.
    """

    symbols: int = 8
    alpha: float = 0.5
    depth: int = 3
    split: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("alpha", self.alpha, LEAST_ALPHA)
        between("split", self.split, 0, 1, "()")
        check_size(self.depth, self.symbols)

    def leaves(self, draws: Draws) -> NDArray[np.int64]:
        """[symbols**depth] The number of the leaf that each context belongs to."""
        random = draws.of("tree")
        inner = np.ones(1, bool)  # of the nodes of a level: whether all above them split
        every = np.arange(self.symbols**self.depth)
        leaf = np.zeros(len(every), np.int64)
        offset = 0
        for level in range(self.depth):
            inner = inner & (random.random_sample(len(inner)) < self.split)
            nodes = self.symbols ** (level + 1)
            below = inner[np.arange(nodes) % len(inner)]  # children, if their parent splits
            offset += len(inner)
            reached = below[every % nodes]
            leaf[reached] = offset + every[reached] % nodes
            inner = below
        return np.unique(leaf, return_inverse=True)[1]

    def table(self, draws: Draws, leaves: int) -> Losses:
        """[leaves, symbols] The rows of a document."""
        return rows(draws.of("rows"), leaves, self.symbols, self.alpha)

    def _draw(self, draws: Draws, length: int) -> Symbols:
        leaf = self.leaves(draws)
        return walk(self.table(draws, leaf.max() + 1), leaf, self.depth, draws, length)

    def losses(self, read: Symbols) -> Losses:
        """With the odds b of a node that it splits, the mixture predicts

            p_w = p_e / (1 + b) + p_w(child) b / (1 + b),

        and ln b grows by ln p_w(child) - ln p_e with each symbol that the node has seen: from the
        deepest level to the root, each is a sum over earlier places.
        """
        losses = np.full(read.shape, self.uniform)
        context = contexts(read, self.depth, self.symbols)
        symbol = read[:, self.depth :].ravel()
        prior = math.log(self.split) - math.log1p(-self.split)
        weighted = np.zeros(symbol.shape)
        for level in range(self.depth, -1, -1):
            nodes = self.symbols**level
            keys = apart(context % nodes, nodes).ravel()
            own = log_rule(keys, symbol, self.symbols, self.alpha)
            if level == self.depth:
                weighted = own
                continue
            odds = prior + earlier_sum(keys, weighted - own)
            weighted = np.logaddexp(own - np.logaddexp(0, odds), weighted - np.logaddexp(0, -odds))
        losses[:, self.depth :] = -weighted.reshape(context.shape)
        return losses
