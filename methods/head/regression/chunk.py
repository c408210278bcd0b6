"""Ridge regression that every position of a chunk solves for itself, on all before it.

    W_t = argmin over W of  sum over s of e^(G_t - G_s) b_s |W^T k_s - v_s|^2
                            + tr((W - W_0)^T L (W - W_0)),    o_t = W_t^T q_t

so that W_t = (H_t + L)^{-1} (R_t + L W_0) for H_t = e^(g_t) H_{t-1} + b_t k_t k_t^T and R_t
likewise with v_t^T. Neither the ridge nor the prior W_0 is ever forgotten.

*Without forgetting* all positions share one factorisation. With K and V weighted by sqrt(b), P the
inverse and W the solution at the start of a block, and I + K P K^T = C C^T,

    o_t = W^T q_t + sum over s <= t of (C^{-1} K P Q^T)_st (C^{-1} (V - K W))_s,

since the leading part of a Cholesky factor is the factor of the leading part: a triangular mask is
all that tells one position from the next.

*With forgetting* there is no such form. H_t + L is e^(G_t) (H + sum of e^(-G_s) b_s k_s k_s^T +
e^(-G_t) L): against what was written the ridge grows in all directions from one position to the
next, so that no two positions share a factor up to a matrix of low rank (unless the ridge were
forgotten, too, and then directions that no key has visited for long would explode). Each position
factors its own H_t + L, all of a chunk side by side; while w is small that costs little more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench_methods.head.regression.exact import solved

BLOCK = 64
"""Positions that share a factorisation where nothing is forgotten."""

SUMS = 8
"""Positions whose H_t are made of one H, where something is."""


def shared_solves(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rates: Tensor,
    ridge: Tensor,
    prior: Tensor,
    second: Tensor,
    cross: Tensor,
    strict: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Without forgetting: reads of a chunk, and H and R after it.

    Args:
        queries: [..., T, w].
        keys: [..., T, w]; a row of zeros teaches nothing.
        values: [..., T, m].
        rates: b [..., T], above 0.
        ridge: the diagonal of L, [..., w], above 0.
        prior: W_0 [..., w, m].
        second: H before the chunk, [..., w, w], symmetric.
        cross: R before the chunk, [..., w, m].
        strict: read before position t is written, and not after.

    Returns:
        Reads [..., T, m], and H and R after the last position.
    """
    pulled = ridge[..., None] * prior
    weight = rates[..., None].sqrt()
    reads = []
    for start in range(0, keys.shape[-2], BLOCK):
        part = slice(start, start + BLOCK)
        q = queries[..., part, :]
        k, v = (weight[..., part, :] * value[..., part, :] for value in (keys, values))
        count = k.shape[-2]
        right = torch.cat([k.mT, q.mT, (cross + pulled).expand(*k.shape[:-2], -1, -1)], -1)
        by_keys, by_queries, solution = solved(second, right, ridge).split(
            [count, count, v.shape[-1]], -1
        )
        unit = torch.eye(count, dtype=k.dtype, device=k.device)
        factor, _ = torch.linalg.cholesky_ex(k @ by_keys + unit)
        lacked = torch.cat([v - k @ solution, k @ by_queries], -1)
        shares = torch.linalg.solve_triangular(factor, lacked, upper=False)
        innovations, looks = shares.split([v.shape[-1], count], -1)
        seen = looks.mT.tril(-1 if strict else 0)
        reads.append(q @ solution + seen @ innovations)
        second, cross = second + k.mT @ k, cross + k.mT @ v
    return torch.cat(reads, -2), second, cross


def own_solves(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rates: Tensor,
    log_decays: Tensor,
    ridge: Tensor,
    prior: Tensor,
    second: Tensor,
    cross: Tensor,
    strict: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """With forgetting: T matrices [w, w] of each map are alive at once.

    Args:
        log_decays: g [..., T], at most 0; 0 where nothing is forgotten. The others are those of
            `shared_solves`.
    """
    length, width = keys.shape[-2:]
    block, blocks = _sums_of(length)
    q, k, v, rate, own = (
        F.pad(part, (0, 0, 0, blocks * block - length)).unflatten(-2, (blocks, block))
        for part in (queries, keys, values, rates[..., None], log_decays[..., None])
    )
    total = own.cumsum(-2)  # [..., n, b, 1]: log of what is left at t of the block's start
    last = total[..., -1:, :]
    # Roots of weights on both sides keep H positive definite, however products are rounded.
    root = ((last - total) / 2).exp() * rate.sqrt()
    kept, leaving, left = last.exp(), root * k, root * v
    seconds, crosses = [], []
    for number in range(blocks):
        at_number = (..., number, slice(None), slice(None))
        seconds.append(second)
        crosses.append(cross)
        pairs = leaving[at_number].mT
        second = kept[at_number] * second + pairs @ leaving[at_number]
        cross = kept[at_number] * cross + pairs @ left[at_number]
    # Strict: at t the sums of t - 1, with one forgetting less.
    at = F.pad(total, (0, 0, 1, -1)) if strict else total
    diagonal = -1 if strict else 0
    seen = (at - total.mT).tril(diagonal).exp().tril(diagonal) * rate.mT
    outer = (k[..., :, None] * k[..., None, :]).flatten(-2)  # [..., n, b, w w]
    before = torch.stack(seconds, -3).flatten(-2)[..., None, :]
    held = (at.exp() * before + seen @ outer).unflatten(-1, (width, width))
    solution = solved(held, q[..., None], ridge[..., None, None, :])[..., 0]
    known = at.exp() * (solution @ torch.stack(crosses, -3))
    known = known + solution @ (ridge[..., None] * prior)[..., None, :, :]
    reads = known + (seen * (solution @ k.mT)) @ v
    return reads.flatten(-3, -2)[..., :length, :], second, cross


def shared_flops(length: int, width: int, outer: int) -> float:
    """FLOPs of `shared_solves` over T positions of one map [w, m]."""
    pairs = sum(count**2 for count in _counts(length))
    products = 2.0 * pairs * (2 * width + outer)  # both Gram matrices, and the innovations seen
    products += 2.0 * length * width * (3 * outer + width)  # two reads of W, and both sums
    return products + shared_invisible_flops(length, width, outer)


def shared_invisible_flops(length: int, width: int, outer: int) -> float:
    """The part of them that PyTorch's counter cannot see: factorisations and solves."""
    total = 0.0
    for count in _counts(length):
        total += width**3 / 3 + 2 * width**2 * (2 * count + outer)
        total += count**3 / 3 + count**2 * (count + outer)
    return total


def own_flops(length: int, width: int, outer: int) -> float:
    """FLOPs of `own_solves` over T positions of one map [w, m]."""
    block, blocks = _sums_of(length)
    sums = block * width**2 + width**2 + width * outer
    reads = 2 * width * outer + block * (width + outer)
    return 2.0 * block * blocks * (sums + reads) + own_invisible_flops(length, width)


def own_invisible_flops(length: int, width: int) -> float:
    """The part of them that PyTorch's counter cannot see: factorisations and solves."""
    block, blocks = _sums_of(length)
    return block * blocks * (width**3 / 3 + 2 * width**2)


def _counts(length: int) -> list[int]:
    """Positions of each block of `shared_solves`."""
    return [min(BLOCK, length - start) for start in range(0, length, BLOCK)]


def _sums_of(length: int) -> tuple[int, int]:
    """Positions whose H_t are made of one H, and how many such blocks there are."""
    block = max(1, min(SUMS, length))
    return block, -(-length // block)
