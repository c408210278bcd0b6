"""Precision of the float32 products that a method computes beside its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_products(dtype: torch.dtype) -> Iterator[None]:
    """Sets the precision of float32 products to fit a model of this dtype, inside the block.

    With a bfloat16 model, methods keep sums in float32, but the inputs of products have 8 bits of
    precision: TF32 with its 11 bits loses nothing and is several times as fast on a GPU. With a
    float32 model, products are computed in full float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if dtype == torch.float32 else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
