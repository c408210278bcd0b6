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


def after_chunk(
    values: Tensor, log_half_lives: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What is left after a lane's last position: of its values, and as a share of its state.

    Args:
        values: [B, T, out]; zeros where a lane has no position.
        log_half_lives: [R], or None where nothing is forgotten.
        lengths: [B] int64, positions of each lane; None: all T.

    Returns:
        A copy of the values for each rate, [B, T, R out], and shares [B or 1, R]; without
        forgetting the values as they are, and None.
    """
    count, device = values.shape[1], values.device
    if lengths is None:
        lengths = torch.full((1,), count, device=device)
    ages = lengths[:, None] - 1 - torch.arange(count, device=device)  # [B, T]
    share = left(log_half_lives, ages.clamp_min(0))
    if share is None:
        return values, None
    copies = values[:, :, None] * share[..., None].to(values.dtype)
    return copies.flatten(2), left(log_half_lives, lengths)


def spread(kept: Tensor, held: Tensor, kernel: bool) -> Tensor:
    """Shares [B or 1, R] as what multiplies a state [B, in, R out], or [B, R, n] of a vector."""
    if not kernel:
        return kept[:, :, None]
    outer = held.shape[2] // kept.shape[1]
    return kept[:, :, None].expand(-1, -1, outer).flatten(1)[:, None]
