"""What the corrections learn from a chunk: one step of Newton's method for every entry by itself.

For an entry of the vocabulary with corrected probability q_t, departures x_t and target y_t (one
where the entry was the target), the gradient of the chunk's loss with respect to (slow, fast) is

    g = sum of (q_t - y_t) (1, x_t)

and the curvature of everything read so far, its entries taken apart from each other, is

    H = [[A, B], [B, D]] + diag(ridges),    A, B, D = sums of q_t (1 - q_t) (1, x_t, x_t^2).

The step is -H^-1 g, of which the slow part s is shortened to sign(s) ln(1 + |s|). A rare entry that
comes N times, more than the P times that were expected, steps at first by
ln((N + ridge) / (P + ridge)), the estimate of a rate from counts, where plain Newton would leap as
far as N. `fast` stays within -1 and 1: a departure may count twice, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def learned(
    state: Mapping[str, Tensor],
    sums: Mapping[str, Tensor],
    scored: Tensor,
    step: float,
    ridges: tuple[float, float],
) -> dict[str, Tensor]:
    """The state after a chunk.

    Args:
        state: `slow`, `fast`, `trend`, `flat`, `mixed`, `steep` [B, V] and `tokens` [B].
        sums: of the chunk, [B, V]; see `CorrectedScores.sums`.
        scored: [B], tokens in it. A lane without any keeps its state.
        step: factor on the step.
        ridges: added to the curvature of slow and of fast, above 0.
    """
    tokens = state["tokens"] + scored
    known, total = scored[:, None], tokens.clamp_min(1)[:, None]
    after = {
        "tokens": tokens,
        "trend": state["trend"] + (sums["read"] - known * state["trend"]) / total,
        **{name: state[name] + sums[name] for name in ("flat", "mixed", "steep")},
    }
    surplus = sums["counts"] - sums["expected"]
    surplus_apart = sums["counts_apart"] - sums["expected_apart"]
    a, b, d = after["flat"] + ridges[0], after["mixed"], after["steep"] + ridges[1]
    determinant = a * d - b * b
    slow = step * (d * surplus - b * surplus_apart) / determinant
    fast = step * (a * surplus_apart - b * surplus) / determinant
    after["slow"] = state["slow"] + slow.sign() * torch.log1p(slow.abs())
    after["fast"] = (state["fast"] + fast).clamp(-1.0, 1.0)
    return after
