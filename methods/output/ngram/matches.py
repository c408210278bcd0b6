"""Which places of the document so far end in the same tokens as the place being predicted.

A pair is a place of the document, with the tokens up to it, and its follower: the token after it.
All functions compare tokens, so that nothing here is a multiply-add, a loop over tokens or lanes,
or a shape that depends on values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROOMS = 8
"""How many situations `occurrences` tells apart."""


def match_lengths(sequence: Tensor, columns: int, window: int, order: int) -> Tensor:
    """How many of the last tokens a pair shares with a column, up to `order`: [B, C, N] int8.

    A pair shares 0 with a column that may not see it: pairs whose follower is at or before the
    column's input are seen, the last `window` of them.

    Args:
        sequence: [B, N] int64, the document's tokens up to the end of the chunk; -1 before its
            start.
        columns: C, how many of them, the last ones, are the chunk's inputs.
        window: pairs that are seen.
        order: the most tokens that are compared, at least 1.
    """
    size = sequence.shape[1]
    place = torch.arange(size, device=sequence.device)
    column = place[size - columns :, None]
    matched = (place < column) & (place >= column - window)  # [C, N], and with lanes from here on
    lengths = torch.zeros((), dtype=torch.int8, device=sequence.device)
    for back in range(order):
        earlier = F.pad(sequence, (back, 0), value=-1)[:, :size]
        ours, theirs = earlier[:, size - columns :, None], earlier[:, None]
        matched = matched & (ours == theirs) & (theirs >= 0)
        lengths = lengths + matched.to(torch.int8)
    return lengths


def followers(sequence: Tensor) -> Tensor:
    """[B, N]: the follower of each pair; any token where there is none."""
    return sequence.roll(-1, dims=1).clamp_min(0)


def occurrences(lengths: Tensor, tokens: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """How often each column's last 1 .. `order` tokens were seen, and the situation that makes.

    A situation is how often (1, 2, 3 or 4, more) and whether always with the same follower.

    Args:
        lengths: [B, n, N], as `match_lengths` gives them.
        tokens: [B, N], the followers.
        order: K, that of the lengths.

    Returns:
        Counts [B, n, K], and numbers [B, n, K] below `ROOMS`, without meaning where a count is 0.
    """
    small = tokens.to(torch.int32)[:, None]
    seen, same = [], []
    for shared in range(1, order + 1):
        matched = lengths >= shared
        seen.append(matched.sum(-1))
        lowest = torch.where(matched, small, torch.iinfo(torch.int32).max).amin(-1)
        same.append(lowest == torch.where(matched, small, -1).amax(-1))
    counts = torch.stack(seen, -1)
    often = (counts > 1).long() + (counts > 2) + (counts > 4)
    return counts, 2 * often + torch.stack(same, -1)


def agreements(lengths: Tensor, tokens: Tensor, labels: Tensor, order: int) -> Tensor:
    """How often labels [B, n] followed each column's last 1 .. `order` tokens: [B, n, K]."""
    right = tokens[:, None] == labels[..., None]
    return torch.stack([((lengths >= k) & right).sum(-1) for k in range(1, order + 1)], -1)
