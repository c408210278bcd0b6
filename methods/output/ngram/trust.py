"""How far each order of the n-gram model is trusted: learned from the document so far.

What order k says is mixed into what the orders below it say, p_k = a q_k + (1 - a) p_{k-1}. The
share a is not known. It is one of a few values for every order and situation, and after each label
Bayes' rule says how likely each of them is: the odds of a grow by a q_k + (1 - a) p_{k-1} at the
label. The mean of a under these odds is the share used, so that the mixture over all that shares
could have been is predicted with, and it costs at most the logarithm of the prior.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRID = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)
"""What a share may be."""

LEAST = 1e-30
"""The probability that stands for smaller ones below, so that ratios stay within float32."""


def fresh_evidence(order: int, rooms: int, caution: float) -> Tensor:
    """Log odds [K, R, G] of each share of `GRID` before any label: (1 - a)^caution."""
    prior = caution * torch.log1p(-torch.tensor(GRID))
    return centred(prior.expand(order, rooms, -1))


def learned(
    evidence: Tensor,
    grid: Tensor,
    chances: Tensor,
    counts: Tensor,
    hits: Tensor,
    rooms: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """The shares of the orders at each of n columns, from the labels before it alone.

    Args:
        evidence: [B, K, R, G], log odds before the first column.
        grid: [G], `GRID` on the device of the rest.
        chances: [B, n], the probability of each column's label in the distributions below.
        counts: [B, n, K], how often the column's last 1 .. K tokens were seen.
        hits: [B, n, K], how often the label followed them.
        rooms: [B, n, K], the situation, below R.
        mask: [B, n] bool, the columns whose labels count as evidence.

    Returns:
        Shares [B, n, K], 0 where nothing was seen, and the evidence after the last column.
    """
    numbers = torch.arange(evidence.shape[2], device=evidence.device)
    lower = chances.clamp_min(LEAST)
    shares, after = [], []
    for k in range(evidence.shape[1]):
        seen = counts[..., k] > 0
        ratio = hits[..., k] / counts[..., k].clamp_min(1) / lower
        gains = torch.log1p(grid * (ratio[..., None] - 1))  # [B, n, G]
        own = rooms[..., k, None] == numbers  # [B, n, R]
        terms = (own & (seen & mask)[..., None])[..., None] * gains[:, :, None]  # [B, n, R, G]
        through = evidence[:, k, None] + _running(terms)
        before = ((through - terms) * own[..., None]).sum(2)
        share = torch.where(seen, (before.softmax(-1) * grid).sum(-1), 0.0)
        lower = lower * (1 + share * (ratio - 1))
        shares.append(share)
        after.append(through[:, -1])
    return torch.stack(shares, -1), torch.stack(after, 1)


@torch.compiler.disable  # torch 2.11 fails to compile a scan of what is computed right before it
def _running(terms: Tensor) -> Tensor:
    """Sums over the columns up to each, [B, n, R, G]."""
    return terms.cumsum(1)


def centred(evidence: Tensor) -> Tensor:
    """The same odds with the best at 0: a long document's would outgrow their own digits."""
    return evidence - evidence.amax(-1, keepdim=True)
