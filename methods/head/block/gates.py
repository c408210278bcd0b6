"""What the input says of a step: how far it goes, and how much of the past it leaves."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HALF_LIVES = (64.0, 4096.0)
"""Half-lives of the first and the last head at the start of training, in tokens; the others lie
between, at equal ratios."""


class Rate(nn.Module):
    """sigmoid(W x + b) for each head: the size of a step, between 0 and 1."""

    def __init__(self, hidden_size: int, heads: int, start: float = 0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, hidden_size))
        self.bias = nn.Parameter(torch.full((heads,), math.log(start / (1 - start))))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] of inputs [B, T, d]."""
        return (x @ self.weight.mT + self.bias).sigmoid()

    def flops(self, positions: int) -> float:
        """FLOPs over so many positions of one lane."""
        return 2.0 * positions * self.weight.numel()


class Forgetting(nn.Module):
    """Logarithms of what is left after a step, g = -exp(c) softplus(W x) for each head, below 0.

    It begins with W = 0 and half-lives of `HALF_LIVES`.
    """

    def __init__(self, hidden_size: int, heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, hidden_size))
        first, last = (math.log(life) for life in HALF_LIVES)
        self.log_rates = nn.Parameter(-torch.linspace(first, last, heads))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] of inputs [B, T, d]."""
        return -self.log_rates.exp() * F.softplus(x @ self.weight.mT)

    def flops(self, positions: int) -> float:
        """FLOPs over so many positions of one lane."""
        return 2.0 * positions * self.weight.numel()
