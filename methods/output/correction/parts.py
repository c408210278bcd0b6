"""The distributions of `output-correction`, and what a chunk of them says of the corrections."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tta_bench import Scores, Window

LEAST = -100.0
"""The log-probability that stands for smaller ones, so that products with it stay finite."""

SUMS = ("read", "expected", "expected_apart", "flat", "mixed", "steep")
"""What `summed` gives, in its order: sums over tokens for every entry of the vocabulary.

`read` is of log-probabilities below; `expected` of q and `expected_apart` of q x, with q the
corrected probability and x what departs from the trend; `flat`, `mixed` and `steep` are of
q (1 - q) times 1, x and x^2.
"""


class CorrectedScores(Scores):
    """Log-probabilities with both corrections, normalised.

    What the corrections learn from is summed up as columns are asked for, each of them once and in
    order, so that the distributions of a chunk need not be kept.

    Args:
        below: the distributions to correct.
        window: the chunk.
        state: `slow`, `fast` and `trend` [B, V], `tokens` [B]; they must stay as they are.
        correct: `corrected`, or the same function compiled.
        add_up: `summed`, or the same function compiled.
    """

    normalised = True

    def __init__(
        self,
        below: Scores,
        window: Window,
        state: Mapping[str, Tensor],
        correct: Callable[..., tuple[Tensor, Tensor, Tensor]],
        add_up: Callable[..., Tensor],
    ):
        super().__init__(*below.shape)
        self.hidden = below.hidden
        self._below = below
        self._corrections = state["slow"], state["fast"], state["trend"], state["tokens"] > 0
        self._mask = window.mask
        # The label of a column is the next one's input; that of the last one is not known yet.
        ids = window.chunk_ids
        self._labels = torch.cat([ids[:, 1:], ids[:, :1]], dim=1)
        self._final = (window.scored - 1).clamp_min(0)[:, None]  # [B, 1]
        trend = state["trend"]
        self._sums = trend.new_zeros(len(trend), len(SUMS), trend.shape[1])
        self._apart = trend.new_zeros(self._labels.shape)  # x at each column's label
        self._last = torch.zeros_like(trend)  # x at each lane's last scored column
        self._read = 0
        self._correct, self._add_up = correct, add_up

    def rows(self, start: int, stop: int) -> Tensor:
        self.read(start)
        kept, apart, found = self._correct(
            self._below.rows(start, stop).detach(), *self._corrections
        )
        if self._read < stop:
            new = slice(self._read - start, None)
            self._note(kept[:, new], apart[:, new], found[:, new])
        return found

    def read(self, stop: int) -> None:
        """Notes the columns before `stop`, where nobody has asked for them."""
        if self._read < stop:
            self.rows(self._read, stop)

    def _note(self, kept: Tensor, apart: Tensor, found: Tensor) -> None:
        """Adds the next columns to the sums."""
        start, stop = self._read, self._read + found.shape[1]
        new = slice(start, stop)
        self._sums += self._add_up(kept, apart, found, self._mask[:, new])
        self._apart[:, new] = apart.gather(2, self._labels[:, new, None])[..., 0]
        inside = (self._final >= start) & (self._final < stop)
        place = (self._final - start).clamp(0, stop - start - 1)
        row = apart.gather(1, place[..., None].expand(-1, -1, apart.shape[2]))[:, 0]
        self._last = torch.where(inside, row, self._last)
        self._read = stop

    def sums(self, targets: Tensor) -> dict[str, Tensor]:
        """The sums [B, V] of `SUMS` over the whole chunk, and those of its targets [B, C].

        `counts` is how often each entry was the target, `counts_apart` the sum of x there.
        """
        self.read(self.shape[1])
        found = dict(zip(SUMS, self._sums.unbind(1), strict=True))
        last = self._last.gather(1, targets.gather(1, self._final))
        apart = self._apart.scatter(1, self._final, last)
        for name, values in (("counts", torch.ones_like(apart)), ("counts_apart", apart)):
            nothing = torch.zeros_like(self._last)
            found[name] = nothing.scatter_add(1, targets, torch.where(self._mask, values, 0.0))
        return found


def corrected(
    rows: Tensor, slow: Tensor, fast: Tensor, trend: Tensor, known: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities below, what departs from the trend, and log-probabilities corrected.

    Args:
        rows: [B, n, V], logits or log-probabilities below.
        slow: [B, V], the offset of each entry.
        fast: [B, V], what each entry's departures from its trend count more.
        trend: [B, V], the mean log-probability of each entry.
        known: [B] bool, where there is a trend; elsewhere nothing departs from it.
    """
    dtype = torch.promote_types(rows.dtype, slow.dtype)
    kept = torch.log_softmax(rows, dim=-1, dtype=dtype).clamp_min(LEAST)
    apart = torch.where(known[:, None, None], kept - trend[:, None], 0.0)
    moved = kept + slow[:, None] + fast[:, None] * apart
    return kept, apart, torch.log_softmax(moved, dim=-1)


def summed(kept: Tensor, apart: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    """The sums [B, 6, V] of `SUMS` over the columns [B, n] of the mask; arguments [B, n, V]."""
    columns = mask[..., None].to(found.dtype)
    chance = found.exp() * columns
    spread = chance * (1 - chance)
    sloped = spread * apart
    terms = (kept * columns, chance, chance * apart, spread, sloped, sloped * apart)
    return torch.stack([term.sum(1) for term in terms], dim=1)
