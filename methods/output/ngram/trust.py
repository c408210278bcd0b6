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

from tta_bench import compiled

GRID = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)
"""What a share may be."""

LEAST = 1e-30
"""The probability that stands for smaller ones below, so that ratios stay within float32."""


def fresh_evidence(order: int, rooms: int, caution: float) -> Tensor:
    """Log odds [K, R, G] of each share of `GRID` before any label: (1 - a)^caution."""
    prior = caution * torch.log1p(-torch.tensor(GRID))
    return centred(prior.expand(order, rooms, -1))


class Learner:
    """Learns the shares of the orders; what stands before and behind its running sums is compiled.

    The sums are not: torch 2.11 fails to make a kernel for a GPU of a sum and what it is a sum of.
    """

    def __init__(self) -> None:
        self._terms, self._share = terms_of, share_of

    def compile(self) -> None:
        """Reads faster from now on."""
        self._terms, self._share = compiled(terms_of), compiled(share_of)

    def __call__(
        self,
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
        lower = chances.clamp_min(LEAST)
        shares, after = [], []
        for k in range(evidence.shape[1]):
            seen, own = counts[..., k], rooms[..., k]
            ratio = hits[..., k] / seen.clamp_min(1) / lower
            terms = self._terms(grid, ratio, seen, own, mask, evidence.shape[2])
            through = evidence[:, k, None] + terms.cumsum(1)
            share, lower = self._share(grid, ratio, seen, own, through, terms, lower)
            shares.append(share)
            after.append(through[:, -1])
        return torch.stack(shares, -1), torch.stack(after, 1)


def terms_of(
    grid: Tensor, ratio: Tensor, counts: Tensor, rooms: Tensor, mask: Tensor, size: int
) -> Tensor:
    """What each column's label adds to the log odds of one order, [B, n, R, G].

    Args:
        grid: [G].
        ratio: [B, n], the label's probability in this order over that in those below.
        counts: [B, n], 0 where the order has seen nothing.
        rooms: [B, n].
        mask: [B, n] bool.
        size: R.
    """
    gains = torch.log1p(grid * (ratio[..., None] - 1))  # [B, n, G]
    own = _one_of(rooms, size) & ((counts > 0) & mask)[..., None]  # [B, n, R]
    return own[..., None] * gains[:, :, None]


def share_of(
    grid: Tensor,
    ratio: Tensor,
    counts: Tensor,
    rooms: Tensor,
    through: Tensor,
    terms: Tensor,
    lower: Tensor,
) -> tuple[Tensor, Tensor]:
    """The share of one order at each column, and the probability of its label mixed in, [B, n].

    Args:
        grid: [G].
        ratio: [B, n], as in `terms_of`.
        counts: [B, n].
        rooms: [B, n].
        through: [B, n, R, G], the log odds after each column's label.
        terms: [B, n, R, G], what that label added.
        lower: [B, n], the label's probability in the orders below.
    """
    own = _one_of(rooms, through.shape[2])
    before = ((through - terms) * own[..., None]).sum(2)
    share = torch.where(counts > 0, (before.softmax(-1) * grid).sum(-1), 0.0)
    return share, lower * (1 + share * (ratio - 1))


def _one_of(rooms: Tensor, size: int) -> Tensor:
    """[B, n, R] bool, True in the room that each column is in."""
    return rooms[..., None] == torch.arange(size, device=rooms.device)


def centred(evidence: Tensor) -> Tensor:
    """The same odds with the best at 0: a long document's would outgrow their own digits."""
    return evidence - evidence.amax(-1, keepdim=True)
