"""The step of a prime MLP: plain gradient descent, clipped by the norm of all its matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_bench.heads import State

LONGEST = 1.0
"""Norm to which a lane's gradient is cut, as in the authors' configurations."""


def descended(values: State, losses: Tensor, rate: float, through: bool) -> State:
    """w - rate g min(1, 1 / |g|) for each lane, |g| the norm over all of its tensors.

    Args:
        values: w, [B, ...] each, which require gradients.
        losses: [B], what each lane descends on; a lane's depends on its own values alone.
        rate: size of a step.
        through: whether the result is to be differentiated in turn.
    """
    slopes = torch.autograd.grad(losses.sum(), list(values.values()), create_graph=through)
    with torch.set_grad_enabled(through):  # else what was read would live on in the state
        squares = torch.stack([slope.flatten(1).square().sum(1) for slope in slopes]).sum(0)
        # The root of what is at least one: that of zero, of nothing learned yet, has no slope.
        step = rate * LONGEST / squares.clamp_min(LONGEST**2).sqrt()
        return {
            name: value - step.view(-1, *[1] * (value.dim() - 1)) * slope
            for (name, value), slope in zip(values.items(), slopes, strict=True)
        }
