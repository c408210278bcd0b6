"""What is left of a step of Fast Weight Layers after some tokens: k(n) of `fwl_layer`.

k(n) = sum_r eta_r 2^(-(n-1)/h_r) with learned half-lives h_r, k(n) = sum_r eta_r without. Ages
count from the first position that can read a step: n = age + 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def left(log_half_lives: Tensor | None, ages: Tensor) -> Tensor | None:
    """2^(-age / h_r) for each rate r: [..., R] of ages [...]; None if nothing is forgotten."""
    if log_half_lives is None:
        return None
    return (ages[..., None] / log_half_lives.exp() * -math.log(2)).exp()


def inside_chunk(
    log_steps: Tensor, log_half_lives: Tensor | None, length: int, count: int
) -> Tensor:
    """[length, count]: what position t still has of the step that s wrote; 0 unless s < t."""
    places = torch.arange(length, device=log_steps.device)
    ages = places[:, None] - places[None, :count] - 1
    steps = log_steps.exp()
    share = left(log_half_lives, ages.clamp_min(0))
    kept = steps.sum() if share is None else (share * steps).sum(-1)
    return torch.where(ages >= 0, kept, 0.0)
