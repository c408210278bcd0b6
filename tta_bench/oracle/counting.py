"""Counts and sums over what came before, for all places of a sequence at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def earlier(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] How many equal keys stand before each place."""
    order, start = _grouped(keys)
    found = np.empty(len(keys), np.int64)
    found[order] = np.arange(len(keys)) - start
    return found


def earlier_sum(keys: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] The sum of the values of equal keys before each place."""
    order, start = _grouped(keys)
    total = np.concatenate([[0.0], np.cumsum(values[order])])
    found = np.empty(len(keys))
    found[order] = total[:-1] - total[start]
    # A difference of running sums is off by a rounding, which must not look like a sum.
    found[order[start == np.arange(len(keys))]] = 0.0
    return found


def _grouped(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An order that puts equal keys together, and for each place in it where its group starts."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    first = np.ones(len(keys), bool)
    first[1:] = sorted_keys[1:] != sorted_keys[:-1]
    places = np.arange(len(keys))
    return order, np.maximum.accumulate(np.where(first, places, 0))


def contexts(read: NDArray[np.int64], order: int, symbols: int) -> NDArray[np.int64]:
    """[documents, n - order] The number of the last `order` symbols before each place from `order`
    on; the latest is the lowest digit, so that `% symbols**d` leaves the last d.
    """
    length = read.shape[1] - order
    found = np.zeros((len(read), max(length, 0)), np.int64)
    for back in range(order):
        found += read[:, order - 1 - back : order - 1 - back + length] * symbols**back
    return found


def apart(keys: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Keys [documents, n], each below `size`, so that those of two documents never agree."""
    return keys + size * np.arange(len(keys))[:, None]
