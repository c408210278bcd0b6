"""How exact the float32 products are that a method computes beside a model of fewer bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_products(dtype: torch.dtype) -> Iterator[None]:
    """While inside, products of float32 matrices are as exact as a model of this dtype deserves.

    A method keeps sums in float32 under a bfloat16 model. Where the inputs of a product have eight
    bits of mantissa, eleven (TF32) lose nothing, and a GPU computes it several times as fast. With
    a float32 model products are exact.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if dtype == torch.float32 else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
