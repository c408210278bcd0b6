"""A weighted gradient step that can be differentiated itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def descended(values: Mapping[str, Tensor], loss: Tensor, rate: float) -> dict[str, Tensor]:
    """theta - rate dL/dtheta, a function of theta and of all that L depends on.

    Args:
        values: theta, by name; each requires a gradient.
        loss: L, a scalar. What it does not depend on stays as it is.
        rate: size of the step.
    """
    found = torch.autograd.grad(loss, list(values.values()), create_graph=True, allow_unused=True)
    return {
        name: value if gradient is None else value - rate * gradient
        for (name, value), gradient in zip(values.items(), found, strict=True)
    }
