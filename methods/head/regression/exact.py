"""Ridge regression solved exactly: the reads of all positions of a chunk.

With keys k_s, values v_s, weights w_s and the ridge L,

    W_t = argmin over W of  sum over s of w_s |W^T k_s - v_s|^2 + tr(W^T L W)

is (H + L)^{-1} R for H = sum w_s k_s k_s^T and R = sum w_s k_s v_s^T (the "Mesa" layer; Wang, Shi &
Fox 2025, arXiv 2501.12352).
"""

from __future__ import annotations

import torch
from torch import Tensor


def solved(second: Tensor, cross: Tensor, ridge: Tensor) -> Tensor:
    """W = (H + diag(ridge))^{-1} R, [..., d, m].

    Args:
        second: H [..., d, d], symmetric.
        cross: R [..., d, m].
        ridge: [d] or [..., d], positive.
    """
    factor, _ = torch.linalg.cholesky_ex(second + torch.diag_embed(ridge))
    # Not `cholesky_solve`, whose library on a GPU may not stand in a CUDA graph.
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def reads_one_by_one(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rates: Tensor,
    log_decays: Tensor,
    ridge: Tensor,
    second: Tensor,
    cross: Tensor,
    strict: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every position solves its own regression; the ridge is never forgotten.

    H_t = exp(g_t) H_{t-1} + b_t k_t k_t^T, R_t likewise, and o_t = R_t^T (H_t + L)^{-1} q_t, from
    which `own_solves` differs by its cost alone.

    Args:
        queries: [..., T, d].
        keys: [..., T, d].
        values: [..., T, m].
        rates: b [..., T], the weight of a position.
        log_decays: g [..., T], at most 0.
        ridge: the diagonal of L, [..., d].
        second: H before the first position, [..., d, d]; it need not be symmetric.
        cross: R before the first position, [..., d, m].
        strict: read before position t is written, and not after.

    Returns:
        Reads [..., T, m], and H and R after the last position.
    """
    reads = []
    for t in range(keys.shape[-2]):
        key, value = keys[..., t, :, None], values[..., t, None, :]
        before = second, cross
        decay, rate = log_decays[..., t, None, None].exp(), rates[..., t, None, None]
        second = decay * second + rate * key @ key.mT
        cross = decay * cross + rate * key @ value
        held, known = before if strict else (second, cross)
        solution = torch.linalg.solve(held + torch.diag_embed(ridge), queries[..., t, :, None])
        reads.append((known.mT @ solution)[..., 0])
    return torch.stack(reads, dim=-2), second, cross


def corrections_in_chunk(keys: Tensor, inverse_times_keys: Tensor, innovations: Tensor) -> Tensor:
    """What the regression at t has learned from s < t in its chunk, [..., T, m], without decay.

    With G = K (H + L)^{-1} K^T and G + I = C C^T, the errors of the running predictions are
    diag(C) C^{-1} (V - K W), where W is the solution before the chunk: a Cholesky factor is the
    recursion of least squares, all of it at once. Only entries below the diagonal are used, so that
    position t is a function of values before it, strictly.

    Args:
        keys: K [..., T, d]; a row of zeros teaches nothing.
        inverse_times_keys: (H + L)^{-1} K^T, [..., d, T].
        innovations: V - K W, [..., T, m].
    """
    gram = keys @ inverse_times_keys
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(gram + unit)
    inverse = torch.linalg.solve_triangular(factor, unit.expand_as(factor), upper=False)
    scale = factor.diagonal(dim1=-2, dim2=-1)[..., None]
    return -(scale * inverse).tril(-1) @ innovations
