"""The small net that says how much a token's loss counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHARPNESS = 3.0
"""beta of softplus(x) = ln(1 + exp(beta x)) / beta."""


class Weigher(nn.Module):
    """w = softplus(fc2 gelu(fc1 x)), as in the authors' code; fc2 begins at zero: all weigh alike.

    Args:
        inputs: features of a token.
        width: of the hidden layer.
    """

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, width), nn.Linear(width, 1)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Weights [B, C], above 0, of features [B, C, inputs]."""
        return F.softplus(self.fc2(F.gelu(self.fc1(features)))[..., 0], beta=SHARPNESS)


def token_features(hidden: Tensor, embedded: Tensor, nll: Tensor) -> Tensor:
    """[B, C, d + e + 1]: what is known of a token once it was scored.

    Args:
        hidden: [B, C, d], the states that predicted the tokens.
        embedded: [B, C, e], the tokens' own embeddings.
        nll: [B, C], their losses.
    """
    parts = [F.layer_norm(value.float(), value.shape[-1:]) for value in (hidden, embedded)]
    return torch.cat([*parts, nll.float()[..., None]], dim=-1)
