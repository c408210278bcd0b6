"""`neural-cache`: the continuous cache of Grave et al. (2017, arXiv 1612.04426).

The share of a remembered pair (hidden state h_i, the token y_i that followed it) at position t is

    share_i(t) ~ exp(theta h_t . h_i)

with h of unit length (the paper's LSTM states are used as they are). `memory.py` says which pairs
are remembered and how shares become a distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tta_bench import register
from tta_bench_methods.output.memory import MemoryMethod, MemoryParams


@register("neural-cache")
class NeuralCache(MemoryMethod):
    """Continuous cache: mixes in tokens that followed similar hidden states (Grave et al. 2017)."""

    @dataclass
    class Params(MemoryParams):
        """Hyper-parameters of the cache."""

        theta: float = field(default=20.0, metadata={"help": "flatness, on unit hidden states"})

    def shares(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        similar = self.params.theta * queries @ keys.mT
        return torch.softmax(similar.masked_fill(~visible, -math.inf), dim=-1)
