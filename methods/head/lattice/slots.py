"""Slots that are updated only orthogonally to themselves (Karami & Mirrokni 2025, 2504.05646).

A memory of n slots s_i in R^w; p_i = s_i / |s_i|; keys and queries have one entry a slot, and a
read is sum_i q_i p_i. A gradient step moves each slot by

    s_i <- s_i - a_i (e - (p_i . e) p_i)

with an amount a_i for each slot and one direction e, of one of three objectives:

    decoding:   |sum_i k_i p_i - v|^2 / 2,   a_i |s_i| = rate k_i,             e = sum_i k_i p_i - v
    similarity: -v . sum_i k_i p_i,          a_i |s_i| = rate k_i,             e = -v
    encoding:   sum_i (p_i . v - k_i)^2 / 2, a_i |s_i| = rate (p_i . v - k_i), e = v

The projection is what the derivative of s_i / |s_i| does to a gradient. There is no code of the
authors; this is derived here, as are the chunks: inside a mini-batch p_i, |s_i|, a_i and e are
those of its start, so that the slots at t are sums over s <= t, which are never written out. Their
lengths, which a read divides by, follow from products of pairs of positions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Objective = Literal["decoding", "similarity", "encoding"]

SHORTEST = 1e-6
"""No slot counts as shorter than this."""


class Steps(NamedTuple):
    """What T positions do to n slots."""

    directions: Tensor
    """p [..., n, w] at the start of the mini-batch."""

    amounts: Tensor
    """a [..., T, n]."""

    errors: Tensor
    """e [..., T, w]."""


def steps(
    slots: Tensor, keys: Tensor, values: Tensor, rates: Tensor, objective: Objective = "decoding"
) -> Steps:
    """The steps of every position, all at the same slots.

    Args:
        slots: [..., n, w], at the start of the mini-batch.
        keys: [..., T, n].
        values: [..., T, w].
        rates: [..., T]; 0 where nothing is written.
        objective: what they descend.
    """
    lengths = slots.norm(dim=-1).clamp_min(SHORTEST)[..., None, :]
    directions = slots / lengths.mT
    if objective == "encoding":
        keys, errors = values @ directions.mT - keys, values
    else:
        errors = keys @ directions - values if objective == "decoding" else -values
    return Steps(directions, rates[..., None] * keys / lengths, errors)


def read(slots: Tensor, queries: Tensor) -> Tensor:
    """sum_i q_i s_i / |s_i|, [..., T, w]."""
    return queries @ F.normalize(slots, dim=-1, eps=SHORTEST)


def read_moving(
    slots: Tensor, taken: Steps, kept: Tensor, left: Tensor, queries: Tensor, strict: bool
) -> tuple[Tensor, Tensor]:
    """Reads in which every position has slots of its own, and the slots after the last one.

    Slots at t are  left_t s_i - sum_s kept_ts a_si (e_s - (p_i . e_s) p_i).

    Args:
        slots: [..., n, w] before the first position; not those of the start of the mini-batch where
            an earlier part of it was written.
        taken: the steps of these positions.
        kept: [..., T, T], what is left at t of the step of s, 0 for s > t.
        left: [..., T], what is left at t of the slots.
        queries: [..., T, n].
        strict: read before position t is written, and not after.
    """
    directions, amounts, errors = taken
    along = errors @ directions.mT  # p_i . e_s
    sideways = kept @ (amounts * along)  # what the sum of a e has along p: [..., T, n]
    # The squared length of sum_s kept a e, by its recursion: with decay d = kept_{t,t-1} it is
    # d^2 times the one before, 2 a_t e_t . (d times the sum before), and (a_t e_t)^2.
    pairs = errors @ errors.mT
    own = pairs.diagonal(dim1=-2, dim2=-1)[..., None]
    gained = amounts * (2 * (kept * pairs).tril(-1) @ amounts + amounts * own)
    orthogonal = kept.square() @ gained - sideways.square()
    # In a later part of a mini-batch the slots are no longer parallel to p.
    level = (slots * directions).sum(-1)[..., None, :]
    across = kept @ (amounts * (errors @ slots.mT - level * along))
    held, share = slots.square().sum(-1)[..., None, :], left[..., None]
    squares = share.square() * held - 2 * share * across + orthogonal
    after = (
        left[..., -1:, None] * slots
        - (kept[..., -1, :, None] * amounts).mT @ errors
        + sideways[..., -1, :, None] * directions
    )
    if strict:
        kept, sideways = _later(kept, 0.0), _later(sideways, 0.0)
        share, squares = _later(share, 1.0), _later(squares, held)
    shares = queries / squares.clamp_min(SHORTEST**2).sqrt()
    seen = kept * (shares @ amounts.mT)
    reads = share * (shares @ slots) - seen @ errors + (shares * sideways) @ directions
    return reads, after


def minibatch_flops(positions: int, slots: int, width: int, objective: Objective) -> float:
    """FLOPs of `steps` and `read_moving` over m positions."""
    products = (5 + (objective != "similarity")) * slots * width
    pairs = 5 * slots + 2 * width
    return 2.0 * positions * (products + pairs * positions)


def _later(values: Tensor, first: Tensor | float) -> Tensor:
    """Moved by one position, [..., T, m]; what stands at the first one is given."""
    return torch.cat([torch.zeros_like(values[..., :1, :]) + first, values[..., :-1, :]], -2)
