"""Matrices that learn a position at a time, all of a chunk at once.

    S' = exp(g_t) S_{t-1};    S_t = S' + k_t (b_t (v_t - c S'^T k_t))^T

c = 1 is the delta rule, one step on |S^T k_t - v_t|^2 / 2 with rate b_t, after forgetting (Schlag
et al. 2021, arXiv 2102.11174; Yang et al. 2024, arXiv 2406.06484; with forgetting arXiv
2412.06464). c = 0 is linear attention (Katharopoulos et al. 2020, arXiv 2006.16236). What a
position writes, n_t = b_t (v_t - c S'^T k_t), depends on what those before it wrote; within a block
of positions that starts from S it is the solution of one triangular system (the WY form),

    (I + c tril(b_t e^(G_t - G_s) k_t . k_s, -1)) N = b (V - c e^G K S),    G_t = g_1 + ... + g_t.

Solved for both terms of the right side at once, N = U - W S: the systems of all blocks are solved
side by side, and only products with S go from block to block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64
"""Positions of a block: pairs inside cost as much as the products with a matrix of this width."""


def linear_rule(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rates: Tensor,
    log_decays: Tensor,
    state: Tensor,
    *,
    strict: bool = False,
    corrects: bool = True,
) -> tuple[Tensor, Tensor]:
    """Reads S_t^T q_t of a chunk, and the state after it.

    Args:
        queries: [..., T, d].
        keys: [..., T, d].
        values: [..., T, m].
        rates: b [..., T]; 0 where nothing is written.
        log_decays: g [..., T], at most 0; 0 where nothing is forgotten.
        state: S before the chunk, [..., d, m].
        strict: read before position t is written (and forgotten for), and not after.
        corrects: c, whether a position writes what the state lacks, or its value as it is.

    Returns:
        Reads [..., T, m], not scaled, and S after the last position.
    """
    length, width = keys.shape[-2:]
    block, blocks = blocks_of(length)
    q, k, v = (_parted(part, block, blocks) for part in (queries, keys, values))
    rate, own = (_parted(part[..., None], block, blocks) for part in (rates, log_decays))
    total = own.cumsum(-2)  # [..., n, b, 1]: log of what is left at t of the block's start
    rate_of_values = rate * v
    if corrects:
        between = (total - total.mT).tril(-1).exp().tril(-1)
        unit = torch.eye(block, dtype=k.dtype, device=k.device)
        system = unit + rate * between * (k @ k.mT)
        right = torch.cat([rate_of_values, rate * total.exp() * k], -1)
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        constant, recalled = solved.split([v.shape[-1], width], -1)
    last = total[..., -1:, :]
    kept, leaving = last.exp(), ((last - total).exp() * k).mT
    starts, written = [], []
    for number in range(blocks):
        starts.append(state)
        if corrects:
            new = constant[..., number, :, :] - recalled[..., number, :, :] @ state
        else:
            new = rate_of_values[..., number, :, :]
        written.append(new)
        state = kept[..., number, :, :] * state + leaving[..., number, :, :] @ new
    # Strict: at t the state of t - 1, with one forgetting less.
    seen_at = F.pad(total, (0, 0, 1, -1)) if strict else total
    diagonal = -1 if strict else 0
    seen = (seen_at - total.mT).tril(diagonal).exp().tril(diagonal) * (q @ k.mT)
    reads = seen_at.exp() * (q @ torch.stack(starts, -3)) + seen @ torch.stack(written, -3)
    return reads.flatten(-3, -2)[..., :length, :], state


def rule_flops(length: int, width: int, outer: int, corrects: bool = True) -> float:
    """FLOPs of `linear_rule` over T positions of one matrix [d, m]."""
    block, blocks = blocks_of(length)
    places = block * blocks
    pairs = 2.0 * places * block * (width + outer)  # q . k, and what was written
    products = 2.0 * places * 2 * width * outer  # reading the state, and adding to it
    if corrects:
        pairs += 2.0 * places * block * width  # k . k
        products += 2.0 * places * width * outer  # what the state recalls
        pairs += rule_invisible_flops(length, width, outer)
    return pairs + products


def rule_invisible_flops(length: int, width: int, outer: int) -> float:
    """The part of them that PyTorch's counter cannot see: triangular systems, where it corrects."""
    block, blocks = blocks_of(length)
    return float(blocks * block**2 * (width + outer))


def blocks_of(length: int) -> tuple[int, int]:
    """Positions of a block, and the number of blocks."""
    block = max(1, min(BLOCK, length))
    return block, -(-length // block)


def _parted(values: Tensor, block: int, blocks: int) -> Tensor:
    """[..., n, b, m] of [..., T, m]; zeros beyond T, which write, forget and recall nothing."""
    missing = block * blocks - values.shape[-2]
    return F.pad(values, (0, 0, 0, missing)).unflatten(-2, (blocks, block))
