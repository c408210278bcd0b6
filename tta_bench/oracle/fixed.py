"""Streams whose reader knows beforehand what each place costs: copies, pairs, and nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_bench.oracle.stream import Draws, Losses, Stream, Symbols, at_least


@dataclass(frozen=True)
class Nothing(Stream):
    """Independent, uniform symbols: every reader loses ln V, or more."""

    def _draw(self, draws: Draws, length: int) -> Symbols:
        return uniform(draws.of("symbols"), length, self.symbols)

    def losses(self, read: Symbols) -> Losses:
        return np.full(read.shape, self.uniform)


@dataclass(frozen=True)
class Copy(Stream):
    """`lag` random symbols, the same once more, then others: ln V at first sight, 0 at second.

    Attributes:
        lag: how many symbols ago a repeated one stood.
    """

    lag: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("lag", self.lag, 1)

    def _draw(self, draws: Draws, length: int) -> Symbols:
        place = np.arange(length)
        return uniform(draws.of("symbols"), length, self.symbols)[
            place - self.lag * self._again(length)
        ]

    def losses(self, read: Symbols) -> Losses:
        again = self._again(read.shape[1])
        return np.broadcast_to(np.where(again, 0.0, self.uniform), read.shape)

    def lags(self, document: int, length: int) -> NDArray[np.int64]:
        return np.where(self._again(length), self.lag, 0)

    def _again(self, length: int) -> np.ndarray:
        """[length] Whether a place repeats the one `lag` before it."""
        return np.arange(length) // self.lag % 2 == 1


@dataclass(frozen=True)
class Recall(Stream):
    """Episodes: pairs of a key and a value, a gap, then each key once more in another order and its
    value behind it (multi-query associative recall, Arora et al. 2024, arXiv 2312.04927).

    Keys of an episode differ from each other; values and the symbols in the gap are uniform. A key
    costs ln of how many it may be, a value ln V, and an answer nothing.

    Attributes:
        symbols: number of values; keys are other symbols.
        keys: number of keys to choose from.
        pairs: pairs of an episode.
        gap: symbols between the last pair and the first question.
    """

    keys: int = 64
    pairs: int = 32
    gap: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("pairs", self.pairs, 1)
        at_least("keys", self.keys, self.pairs)
        at_least("gap", self.gap, 0)

    @property
    def classes(self) -> tuple[int, ...]:
        return self.keys, self.symbols

    def _draw(self, draws: Draws, length: int) -> Symbols:
        episodes = -(-length // self._period)

        def values(purpose: str, count: int) -> Symbols:
            found = uniform(draws.of(purpose), episodes * count, self.symbols)
            return self.keys + found.reshape(episodes, count)

        keys = _shuffled(draws.of("keys"), episodes, self.keys)[:, : self.pairs]
        pairs = np.stack([keys, values("values", self.pairs)], axis=2)  # [episodes, pairs, 2]
        order = self._order(draws, length)
        asked = np.take_along_axis(pairs, order[:, :, None], axis=1)
        parts = (pairs, values("gap", self.gap), asked)
        whole = np.concatenate([part.reshape(episodes, -1) for part in parts], axis=1)
        return whole.ravel()[:length]

    def _order(self, draws: Draws, length: int) -> NDArray[np.int64]:
        """[episodes, pairs] Which pair each question is about."""
        return _shuffled(draws.of("order"), -(-length // self._period), self.pairs)

    def lags(self, document: int, length: int) -> NDArray[np.int64]:
        order = self._order(Draws(self.seed, document), length)
        since = 2 * self.pairs + self.gap + 2 * (np.arange(self.pairs) - order)
        episodes = np.zeros((len(order), self._period), np.int64)
        episodes[:, 2 * self.pairs + self.gap + 1 :: 2] = since
        return episodes.ravel()[:length]

    def losses(self, read: Symbols) -> Losses:
        place = np.arange(self.pairs)
        told = np.stack([np.log(self.keys - place), np.full(self.pairs, self.uniform)], axis=1)
        asked = np.stack([np.log(self.pairs - place), np.zeros(self.pairs)], axis=1)
        gap = np.full(self.gap, self.uniform)
        episode = np.concatenate([told.ravel(), gap, asked.ravel()])
        return np.broadcast_to(np.resize(episode, read.shape[1]), read.shape)

    @property
    def _period(self) -> int:
        return 4 * self.pairs + self.gap


def _shuffled(random: np.random.RandomState, times: int, of: int) -> NDArray[np.int64]:
    """[times, of] Independent permutations."""
    return np.argsort(random.random_sample((times, of)), axis=1)


def uniform(random: np.random.RandomState, length: int, symbols: int) -> Symbols:
    """[length] Independent, uniform symbols."""
    return (random.random_sample(length) * symbols).astype(np.int64)
