"""The rate of dense matrix products that this device reaches, measured along with the rows.

Data sheets name rates that no card holds under its power limit; shares of a rate that was measured
in the same minute can be compared between cards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from tta_bench.cost.timing import synchronise

_SIZES = {"cuda": 8192, "mps": 2048}
_CPU_SIZE = 1024
_SECONDS = 0.5
_BLOCK = 8
"""The number of products between two waits for the device."""


@dataclass(frozen=True)
class MatrixRate:
    """The best rate seen.

    Attributes:
        flops_per_second: 2 n^3 for each product, over the seconds of the fastest block.
        size: n, rows and columns of both factors.
        dtype: of the factors and the product.
    """

    flops_per_second: float
    size: int
    dtype: str


def matrix_rate(device: torch.device, dtype: torch.dtype) -> MatrixRate:
    """Multiplies two random matrices for half a second; zeros would draw too little power."""
    size = _SIZES.get(device.type, _CPU_SIZE)
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(size, size, generator=generator, device=device, dtype=dtype) for _ in range(2)
    )
    out = torch.mm(left, right)
    best, spent = float("inf"), 0.0
    while spent < _SECONDS:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(_BLOCK):
            torch.mm(left, right, out=out)
        synchronise(device)
        seconds = time.perf_counter() - start
        spent += seconds
        best = min(best, seconds)
    return MatrixRate(2.0 * size**3 * _BLOCK / best, size, str(dtype).removeprefix("torch."))
