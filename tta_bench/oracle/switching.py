"""Chains that end without notice, and the Bayes filter over where the last one began."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from tta_bench.oracle.chain import check_size, cumulative, rows
from tta_bench.oracle.counting import apart, contexts, earlier
from tta_bench.oracle.markov import LEAST_ALPHA
from tta_bench.oracle.stream import Draws, Losses, Stream, Symbols, at_least, between

SLOTS = 32
NEGLIGIBLE = math.log(1e-24)
"""Weight of a beginning that may be forgotten: a million of them move no double."""


@dataclass(frozen=True)
class Switching(Stream):
    """Before every block of `every` symbols but the first, with probability `hazard`, all rows are
    drawn anew.

    The filter (Adams & MacKay 2007, arXiv 0710.3742) keeps a weight for each block with which the
    present source may have begun, and predicts by the counts since then. Most weights soon vanish;
    all above NEGLIGIBLE are kept.

    Attributes:
        alpha: parameter of the symmetric Dirichlet.
        hazard: probability of a new source before a block.
        every: symbols of a block.
        order: symbols of context, 0 or 1; they stay where the source changes.
    """

    symbols: int = 32
    alpha: float = 0.2
    hazard: float = 0.03
    every: int = 16
    order: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("alpha", self.alpha, LEAST_ALPHA)
        between("hazard", self.hazard, 0, 1)
        at_least("every", self.every, 1)
        between("order", self.order, 0, 1, "[]")
        check_size(self.order, self.symbols)

    def _draw(self, draws: Draws, length: int) -> Symbols:
        blocks = -(-length // self.every)
        changes = draws.of("changes").random_sample(blocks) < self.hazard
        changes[:1] = False
        source = np.repeat(np.cumsum(changes), self.every)
        source = np.concatenate([np.zeros(self.order, np.int64), source])[:length]
        size = self.symbols**self.order
        count = size * (int(source.max(initial=0)) + 1)
        functions = cumulative(rows(draws.of("rows"), count, self.symbols, self.alpha)).tolist()
        uniform = draws.of("symbols").random_sample(length).tolist()
        found: list[int] = []
        context = 0
        for place, row in enumerate((size * source).tolist()):
            if place < self.order:
                symbol = int(uniform[place] * self.symbols)
            else:
                symbol = bisect_right(functions[row + context], uniform[place])
            found.append(symbol)
            context = symbol % size
        return np.array(found, np.int64)

    def losses(self, read: Symbols) -> Losses:
        """Symbols since a beginning are all symbols so far without those before it."""
        documents, length = read.shape
        every = np.arange(documents)
        size = self.symbols**self.order
        context = contexts(read, self.order, self.symbols)
        pair = context * self.symbols + read[:, self.order :]
        same_pair = earlier(apart(pair, size * self.symbols).ravel()).reshape(pair.shape)
        same_context = earlier(apart(context, size).ravel()).reshape(pair.shape)
        losses = np.full(read.shape, self.uniform)
        stay, change = math.log1p(-self.hazard), math.log(self.hazard or 1.0)
        # The slots of a document hold beginnings: their weights, and what had been read by then.
        weights = np.full((documents, SLOTS), -np.inf)
        weights[:, 0] = 0.0
        pairs_then = np.zeros((documents, size * self.symbols, SLOTS))
        contexts_then = np.zeros((documents, size, SLOTS))
        pairs_now, contexts_now = pairs_then[:, :, 0].copy(), contexts_then[:, :, 0].copy()
        for start in range(0, length - self.order, self.every):
            block = slice(start, start + self.every)
            if start and self.hazard:
                weights += stay
                least = weights.argmin(1)
                if (weights[every, least] > NEGLIGIBLE).any():
                    least[:] = weights.shape[1]
                    weights = _doubled(weights, -np.inf)
                    pairs_then, contexts_then = _doubled(pairs_then), _doubled(contexts_then)
                weights[every, least] = change
                pairs_then[every, :, least] = pairs_now
                contexts_then[every, :, least] = contexts_now
            own, row = pair[:, block], context[:, block]
            seen = same_pair[:, block, None] - pairs_then[every[:, None], own]
            among = same_context[:, block, None] - contexts_then[every[:, None], row]
            rule = np.log((seen + self.alpha) / (among + self.alpha * self.symbols))
            joint = weights[:, None] + np.cumsum(rule, axis=1)  # [documents, every, slots]
            top = joint.max(2)
            total = top + np.log(np.exp(joint - top[:, :, None]).sum(2))
            step = np.diff(total, axis=1, prepend=0.0)
            losses[:, self.order + start : self.order + start + step.shape[1]] = -step
            weights = joint[:, -1] - total[:, -1:]
            np.add.at(pairs_now, (every[:, None], own), 1)
            np.add.at(contexts_now, (every[:, None], row), 1)
        return losses


def _doubled(values: Losses, empty: float = 0.0) -> Losses:
    """With as many empty slots more."""
    return np.concatenate([values, np.full_like(values, empty)], axis=-1)
