"""The best reader of a document: what it loses, computed again from the spec alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tta_bench.oracle.alphabet import alphabet_costs
from tta_bench.oracle.spec import stream_of
from tta_bench.oracle.stream import Losses, Symbols

_AT_ONCE = 1 << 21  # symbols that are predicted side by side


@dataclass(frozen=True, eq=False)
class BestReader:
    """What no reader can beat, on average over documents.

    Attributes:
        sha256: hash of the document's symbols.
        knowing: [n] nats of a reader that knows the alphabet.
        learning: [n] nats of one that must find it in the vocabulary.
        lags: [n] how many symbols before each answer it was told; 0 where none is asked for.
    """

    sha256: str
    knowing: Losses
    learning: Losses
    lags: NDArray[np.int64]


def symbols_sha256(symbols: Symbols) -> str:
    """SHA-256 (hex) of symbols, which identifies a document whatever tokens stand for them."""
    return hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest()


@lru_cache(maxsize=10)
def best_readers(spec: str, documents: int, length: int, vocabulary: int) -> tuple[BestReader, ...]:
    """The best reader of each document, computed once for a few datasets.

    Args:
        spec: `oracle:NAME`, with options.
        documents: how many there are.
        length: symbols of each.
        vocabulary: tokens that the alphabet is drawn from.

    Raises:
        DocumentError: there is no such stream.
    """
    stream = stream_of(spec)
    found: list[BestReader] = []
    step = max(1, _AT_ONCE // length)
    for start in range(0, documents, step):
        some = range(start, min(start + step, documents))
        read = np.stack([stream.draw(document, length) for document in some])
        knowing = stream.losses(read)
        learning = knowing + alphabet_costs(stream, read, vocabulary)
        for document, symbols, known, learned in zip(some, read, knowing, learning, strict=True):
            lags = stream.lags(document, length)
            found.append(BestReader(symbols_sha256(symbols), known, learned, lags))
    return tuple(found)
