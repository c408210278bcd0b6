"""What is left of a step after the steps behind it: products of factors over time."""

from __future__ import annotations

import torch
from torch import Tensor


def products(log_factors: Tensor) -> Tensor:
    """[..., T, T]: the product of the factors after s up to t; 1 on the diagonal, 0 above.

    Sums of logarithms, none of them a difference: exact for factors near 0, and 0 for -inf.

    Args:
        log_factors: [..., T], at most 0.
    """
    count = log_factors.shape[-1]
    after = torch.ones(count, count, dtype=torch.bool, device=log_factors.device).tril(-1)
    return torch.where(after, log_factors[..., None], 0.0).cumsum(-2).exp().tril()
