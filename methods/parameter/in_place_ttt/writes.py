"""What is written to a down projection, and what is read of it: the mathematics, without a model.

With z the inputs of the projection and t the targets, both of one token, and chunks of n tokens,

    v = conv(t) P                          five taps over the chunk alone, each feature by itself
    D_(i+1) = D_i + rate * sum over chunk i of v_c z_c^T
    y = W z + D_i z                        for the tokens of chunk i, D_0 = 0

as in Feng et al. 2026 (arXiv 2604.06169). A value sees two tokens ahead of its own. That tells
nobody anything, since it is read in later chunks, and only chunks that are complete are read.

A stream may be cut anywhere: what is open lies in the state. It is a sum as well, so that neither
state nor cost depends on n, and the tokens whose values still lack what comes after them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench.heads import State

REACH = 2
"""Tokens on either side that a value sees."""

TAPS = 2 * REACH + 1


def unwritten(lanes: int, projection: Tensor, inner: int) -> State:
    """The state of lanes that have read nothing.

    `seen` [B, d, m] is D, `open` [B, d, m] the sum of the chunk that is not complete, `place` [B]
    the tokens of it so far, `targets` [B, 4, d] and `units` [B, 2, m] the newest ones.

    Args:
        lanes: B.
        projection: P, for its width d, device and dtype.
        inner: m, the width of what the projection reads.
    """
    width = len(projection)
    return {
        "seen": projection.new_zeros(lanes, width, inner),
        "open": projection.new_zeros(lanes, width, inner),
        "targets": projection.new_zeros(lanes, 2 * REACH, width),
        "units": projection.new_zeros(lanes, REACH, inner),
        "place": projection.new_zeros(lanes, dtype=torch.int64),
    }


def read_and_write(
    units: Tensor,
    targets: Tensor,
    known: Tensor,
    count: Tensor,
    state: State,
    kernel: Tensor,
    projection: Tensor,
    chunk: int,
) -> tuple[Tensor, State]:
    """D z of the next tokens of each lane, and the state after them.

    Args:
        units: [B, T, m], z.
        targets: [B, T, d], t.
        known: [B, T, d], z read by the state's `seen`.
        count: [B], how many of the T are there, from the first on; reads of others are ignored.
        state: as `unwritten` makes it; it stays as it is.
        kernel: [d, 5], the taps of conv, the oldest token first.
        projection: [d, d], rate * P.
        chunk: n.
    """
    reads = []
    for start in range(0, units.shape[1], chunk):
        part = slice(start, start + chunk)
        before = known[:, part] if start == 0 else units[:, part] @ state["seen"].mT
        here = (count - start).clamp(0, before.shape[1])
        first = state["place"]
        state = _written(units[:, part], targets[:, part], here, state, kernel, projection, chunk)
        places = first[:, None] + torch.arange(before.shape[1], device=first.device)
        after = units[:, part] @ state["seen"].mT
        reads.append(torch.where((places >= chunk)[..., None], after, before))
    return torch.cat(reads, dim=1), state


def products(tokens: int, inner: int, width: int, chunk: int) -> int:
    """Multiply-adds of `read_and_write` over so many tokens of one lane."""
    pieces = -(-tokens // chunk)
    values = tokens + REACH * pieces
    reads = tokens + max(0, tokens - chunk)
    return (reads + 2 * values) * inner * width + values * width**2


def _written(
    units: Tensor,
    targets: Tensor,
    count: Tensor,
    state: State,
    kernel: Tensor,
    projection: Tensor,
    chunk: int,
) -> State:
    """The state after at most n tokens, in which at most one chunk becomes complete."""
    width, device = units.shape[1], units.device
    targets = F.pad(torch.cat([state["targets"], targets], dim=1), (0, 0, 0, REACH))
    units = torch.cat([state["units"], units], dim=1)
    arrived = (state["place"] + count)[:, None]
    # From here on a token is one of the last two before the piece, or of the piece.
    places = state["place"][:, None] + torch.arange(-REACH, width, device=device)
    number = places.div(chunk, rounding_mode="floor")
    values = torch.zeros_like(targets[:, : width + REACH])
    for tap in range(TAPS):
        other = places + tap - REACH
        inside = (other.div(chunk, rounding_mode="floor") == number) & (other < arrived)
        seen = torch.where(inside[..., None], targets[:, tap : tap + width + REACH], 0)
        values = values + kernel[:, tap] * seen
    # A token is written once, when the last one that its value sees is there.
    last = torch.minimum(places + REACH, (number + 1) * chunk - 1)
    ready = (places >= 0) & (last < arrived)
    values = values @ projection

    def written(chosen: Tensor) -> Tensor:
        return (values * (ready & chosen)[..., None]).mT @ units

    whole, closed = state["open"] + written(number == 0), (arrived >= chunk)[..., None]
    return {
        "seen": torch.where(closed, state["seen"] + whole, state["seen"]),
        "open": torch.where(closed, written(number == 1), whole),
        "targets": _newest(targets, count, 2 * REACH),
        "units": _newest(units, count, REACH),
        "place": arrived[:, 0] % chunk,
    }


def _newest(tokens: Tensor, count: Tensor, kept: int) -> Tensor:
    """The last `kept` of those before the piece and the first `count` of it: [B, kept, ...]."""
    places = count[:, None] + torch.arange(kept, device=count.device)
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
