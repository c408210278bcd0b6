"""Momentum and forgetting over a mini-batch, in closed form.

    S_t = m_t S_{t-1} - G_t        M_t = f_t M_{t-1} + S_t

are linear in what was there before, M and S, and in the steps G_s (rate times gradient), which do
not depend on M_t inside a mini-batch. So for every position

    M_t = left_t M + pushed_t S - sum_{s<=t} coupling_ts G_s
    coupling_ts = sum_{r=s..t} (f_{r+1} ... f_t) (m_{s+1} ... m_r)

and the coupling is the product of two triangular matrices of products of factors (Behrouz et al.
2025, arXiv 2501.00663, section 3.2, has associative scans in its place).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tta_bench_methods.head.block.decay import products


class Scan(NamedTuple):
    """What M is made of at each of T positions, and S after the last; no S without momentum."""

    left: Tensor
    """[..., T]: how much of M."""

    pushed: Tensor | None
    """[..., T]: how much of S."""

    coupling: Tensor
    """[..., T, T]: how much of the step of s, 0 for s > t."""

    surviving: Tensor | None
    """[...]: how much of S there is in S after the last position."""

    recent: Tensor | None
    """[..., T]: how much of each step there is in it."""

    def before(self) -> Scan:
        """The same one position earlier: what a position reads before it is written itself."""
        return self._replace(
            left=_later(self.left, 1.0),
            pushed=None if self.pushed is None else _later(self.pushed, 0.0),
            coupling=_later(self.coupling.mT, 0.0).mT,
        )


def momentum_scan(log_keep: Tensor, log_momentum: Tensor | None, written: Tensor) -> Scan:
    """The coefficients of a mini-batch.

    Args:
        log_keep: log f_t [..., T], at most 0; 0 where nothing is written.
        log_momentum: log m_t [..., T], likewise; None: all m_t are 0, and S is the last step.
        written: [..., T], 1 where a position is written, else 0: there M and S stay as they are.
    """
    left = log_keep.cumsum(-1).exp()
    kept = products(log_keep) * written[..., None, :]
    if log_momentum is None:
        return Scan(left, None, kept, None, None)
    momentum, surviving = products(log_momentum), log_momentum.cumsum(-1).exp()
    pushed = (kept @ surviving[..., None])[..., 0]
    return Scan(left, pushed, kept @ momentum, surviving[..., -1], momentum[..., -1, :])


def _later(values: Tensor, first: float) -> Tensor:
    """Moved by one along the last dimension."""
    return torch.cat([torch.full_like(values[..., :1], first), values[..., :-1]], -1)
