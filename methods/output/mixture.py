"""Mixing a distribution over remembered tokens into one over the whole vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tta_bench import Scores


class Mixture(Scores):
    """log((1 - l) p_below + l p_memory), normalised; p_below alone where nothing is remembered.

    Args:
        below: the distributions to mix into.
        shares: [B, C, N] of N remembered tokens; each row sums to one, or to zero.
        tokens: [B, N].
        places: [B, N], as `places_of` gives them.
        known: [B, C, 1] bool, where shares sum to one.
        weight: l, above 0.
        mix: `mixed`, or the same function compiled.
    """

    normalised = True

    def __init__(
        self,
        below: Scores,
        shares: Tensor,
        tokens: Tensor,
        places: Tensor,
        known: Tensor,
        weight: float,
        mix: Callable[..., Tensor],
    ):
        super().__init__(*below.shape)
        self.hidden = below.hidden
        self._below = below
        self._shares = shares
        self._remembered = tokens, places
        self._known = known
        self._weight = weight
        self._mix = mix

    def rows(self, start: int, stop: int) -> Tensor:
        shares, known = self._shares[:, start:stop], self._known[:, start:stop]
        below = self._below.rows(start, stop)
        return self._mix(below, shares, *self._remembered, known, self._weight)


def mixed(
    rows: Tensor, shares: Tensor, tokens: Tensor, places: Tensor, known: Tensor, weight: float
) -> Tensor:
    """Log-probabilities [B, n, V] of the mixture with rows [B, n, V]; see `Mixture`.

    Only tokens that are remembered gain. The vocabulary is much larger than the memory, so a
    token's shares are added up at one of its places in the memory, and only there is anything read
    or written in addition to one pass over the vocabulary.
    """
    token = tokens[:, None].expand_as(shares)
    place = places[:, None].expand_as(shares)
    total = torch.zeros_like(shares).scatter_add(2, place, shares).gather(2, place)
    kept = torch.log_softmax(rows.float(), dim=-1)
    kept = kept + torch.where(known, math.log1p(-weight), 0.0)
    gain = total.log() + math.log(weight)
    # Places of the same token write the same value.
    return kept.scatter_(2, token, torch.logaddexp(kept.gather(2, token), gain))


def places_of(tokens: Tensor, vocab_size: int) -> Tensor:
    """[B, N]: for each of the tokens [B, N] one place in its lane that holds the same token."""
    each = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    last = tokens.new_empty(len(tokens), vocab_size).scatter_(1, tokens, each)
    return last.gather(1, tokens)
