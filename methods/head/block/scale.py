"""Scales that do not depend on the model: hidden states, errors and reads at about unit size."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

SOFT = 0.01
"""Entries below this share of a hidden state's RMS count as linear, not as roots."""


def unit_scale(hidden: Tensor) -> Tensor:
    """About the signed square root of every entry, then RMS 1 over the last dimension.

    Hidden states of pretrained models have a few huge dimensions, which would otherwise make all
    keys alike. Near zero the root is softened: its slope is infinite there.
    """
    width = math.sqrt(hidden.shape[-1])
    unit = F.normalize(hidden, dim=-1) * width
    return F.normalize(unit / (unit.abs() + SOFT).sqrt(), dim=-1) * width


def level(values: Tensor, log_floor: Tensor) -> Tensor:
    """RMS 1 over the last dimension for what is large, and less for what is small.

    v / sqrt(mean(v^2) + floor): what is far below the floor stays small, so that a position that
    was predicted well, or a memory that knows nothing, is not blown up into noise.

    Args:
        values: [..., n].
        log_floor: logarithm of the floor, a scalar or [...] that broadcasts over all but n.
    """
    mean_square = values.square().mean(-1, keepdim=True)
    return values * (mean_square + log_floor[..., None].exp()).rsqrt()
