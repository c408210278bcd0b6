"""How much each token of a chunk counts in its loss: the baselines of CaMeLS.

Hu et al. 2023 (arXiv 2305.15076) learn such weights and compare them with uniform ones and with
tf-idf. Weights are read after the chunk has been scored, so they may depend on all of it. They have
mean one over the chunk, so that a learning rate means the same under all of them. (The authors'
tf-idf weighs words of a whole text and does not rescale; ours weighs tokens of the text so far.)
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Weighting = Literal["uniform", "surprisal", "tf-idf"]
NAMES = get_args(Weighting)


def term_weights(counts: Tensor, rarity: Tensor, targets: Tensor) -> Tensor:
    """tf x idf of each target, [B, C].

    Args:
        counts: [B, V], how often each token stands in the lane's document so far.
        rarity: [V], the inverse document frequencies.
        targets: [B, C].
    """
    return counts.gather(1, targets) * rarity[targets]


def with_mean_one(weights: Tensor, mask: Tensor, scored: Tensor) -> Tensor:
    """The same weights [B, C], scaled to mean one over the scored tokens; 0 at padding."""
    weights = weights * mask
    return weights * (scored / weights.sum(1).clamp_min(1e-30))[:, None]
