"""`knn-lm`: nearest-neighbour language model of Khandelwal et al. (2020, arXiv 1911.00172).

The datastore is the document so far: pairs (hidden state h_i, the token y_i that followed it),
i < t, searched exactly. With d_i(t) = |h_t - h_i|^2, the squared distance as in the authors' code,
a pair's share at position t is

    share_i(t) ~ exp(-d_i(t) / temperature)   if d_i(t) is among the k smallest, otherwise 0

or with `similarity=dot` exp(h_t . h_i / temperature) over the same neighbours. Pairs as near as
the k-th are all neighbours: no order decides between equal states. `memory.py` says which pairs
are remembered and how shares become a distribution.

The paper's key is the input of the last block's feed-forward layer; here it is what the body gives
to the unembedding, at unit length. Distances are computed by matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tta_bench import register
from tta_bench_methods.output.memory import MemoryMethod, MemoryParams


@register("knn-lm")
class NearestNeighbours(MemoryMethod):
    """kNN-LM: mixes in tokens that followed the nearest hidden states (Khandelwal et al. 2020)."""

    @dataclass
    class Params(MemoryParams):
        """Hyper-parameters of the search and of the mixture."""

        weight: float = field(default=0.2, metadata={"help": "share l of the memory, 0 to 1"})
        k: int = field(default=1024, metadata={"help": "neighbours"})
        temperature: float = field(default=0.1, metadata={"help": "scale of squared distances"})
        similarity: Literal["l2", "dot"] = field(
            default="l2", metadata={"help": "what weighs neighbours, which are the nearest by l2"}
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.k < 1:
                raise ValueError("k must be at least 1.")
            if not self.temperature > 0:
                raise ValueError("temperature must be above 0.")

    def shares(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        own = self.params
        return neighbour_shares(queries, keys, visible, own.k, own.temperature, own.similarity)


def neighbour_shares(
    queries: Tensor, keys: Tensor, visible: Tensor, k: int, temperature: float, similarity: str
) -> Tensor:
    """The shares [B, C, N] of N pairs, zero for all that are not among the k nearest visible ones.

    Args:
        queries: [B, C, d].
        keys: [B, N, d].
        visible: [B, C, N] bool, or what expands to it; NaN shares where a query has none.
        k: neighbours.
        temperature: divides what weighs a neighbour.
        similarity: `l2`, the negative squared distance, or `dot`, the inner product.
    """
    products = queries @ keys.mT
    distances = squared_distances(queries, keys, products)
    near = nearest(distances.masked_fill(~visible, math.inf), k) & visible
    likeness = products if similarity == "dot" else -distances
    return torch.softmax((likeness / temperature).masked_fill(~near, -math.inf), dim=-1)


def squared_distances(queries: Tensor, keys: Tensor, products: Tensor) -> Tensor:
    """|q - k|^2 [B, C, N] of queries [B, C, d] and keys [B, N, d], from their inner products."""
    squares = queries.square().sum(-1)[..., None] + keys.square().sum(-1)[:, None]
    return (squares - 2 * products).clamp_min(0)


def nearest(distances: Tensor, k: int) -> Tensor:
    """[..., N] bool: which of the distances [..., N] are at most the k-th smallest."""
    if k >= distances.shape[-1]:
        return torch.ones_like(distances, dtype=torch.bool)
    smallest = torch.topk(distances, k, largest=False, sorted=False).values
    return distances <= smallest.amax(-1, keepdim=True)
