"""Whether two readings differ by more than rounding."""

from __future__ import annotations

import torch
from torch import Tensor

_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.15}
"""The root mean square by which log-probabilities may move, relative to how they spread.

Kernels depend on the size of a window and round otherwise: 30 layers on random tokens moved them by
0.004 in float16 and 0.04 in bfloat16.
"""


def apart(found: Tensor, expected: Tensor, dtype: torch.dtype) -> float | None:
    """By how much two readings differ, relative to their spread; None if by no more than rounding.

    Args:
        found, expected: log-probabilities [..., V].
        dtype: dtype that they were computed in.
    """
    spread = expected.std().clamp_min(1e-9)
    distance = float((found - expected).square().mean().sqrt() / spread)
    return None if distance <= _TOLERANCES[dtype] else distance
