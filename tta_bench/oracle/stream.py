"""What every stream has: options, symbols drawn under a seed, and the losses of its best reader."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int64]
Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one document, a sequence of its own for each purpose.

    What a purpose takes does not depend on how much another has taken, so that a longer document
    begins with the shorter one. `RandomState` is frozen: no later numpy draws anything else.
    """

    seed: int
    document: int

    def of(self, purpose: str) -> np.random.RandomState:
        words = [self.seed, self.document, zlib.crc32(purpose.encode())]
        return np.random.RandomState(np.random.PCG64(np.random.SeedSequence(words)))


@dataclass(frozen=True)
class Stream(ABC):
    """A source of symbols 0, 1, ..., and the exact predictor that knows everything but its draws.

    Which symbol is which plays no part: a source treats all symbols of a class alike.

    Attributes:
        symbols: number of symbols in the alphabet.
        seed: of every draw.
    """

    symbols: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("symbols", self.symbols, 2)
        at_least("seed", self.seed, 0)

    @property
    def classes(self) -> tuple[int, ...]:
        """The sizes of the classes of symbols, numbered one after another."""
        return (self.symbols,)

    def draw(self, document: int, length: int) -> Symbols:
        """[length] The symbols of a document; a longer one begins with the same."""
        return self._draw(Draws(self.seed, document), length)

    @abstractmethod
    def _draw(self, draws: Draws, length: int) -> Symbols: ...

    @abstractmethod
    def losses(self, read: Symbols) -> Losses:
        """[documents, n] -ln P(symbol | symbols before it), nats, of a reader who knows the
        alphabet, the kind of source and its options, and nothing else.

        Args:
            read: [documents, n] symbols.
        """

    @property
    def asks(self) -> bool:
        """Whether it asks for what it told."""
        return type(self).lags is not Stream.lags

    def lags(self, document: int, length: int) -> NDArray[np.int64]:
        """[length] How many symbols before each answer it was told; 0 where none is asked for."""
        return np.zeros(length, np.int64)

    @property
    def uniform(self) -> float:
        """Nats of a symbol of which nothing is known."""
        return math.log(self.symbols)


def at_least(name: str, value: float, least: float) -> None:
    """Raises ValueError for an option that is too small."""
    if not value >= least:
        raise ValueError(f"'{name}' must be at least {least}, but is {value}.")


def between(name: str, value: float, low: float, high: float, ends: str = "[)") -> None:
    """Raises ValueError for an option outside of an interval."""
    above = value >= low if ends[0] == "[" else value > low
    below = value <= high if ends[1] == "]" else value < high
    if not (above and below):
        raise ValueError(f"'{name}' must be in {ends[0]}{low}, {high}{ends[1]}, but is {value}.")
