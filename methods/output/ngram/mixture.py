"""The distributions of `ngram`: those below, mixed with followers of the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tta_bench import Scores, Window
from tta_bench_methods.output.ngram import trust
from tta_bench_methods.output.ngram.matches import (
    agreements,
    followers,
    match_lengths,
    occurrences,
)


@dataclass(frozen=True)
class Seen:
    """What the document so far says of the columns of one chunk.

    Attributes:
        lengths: [B, C, N] int8, tokens that each pair shares with each column.
        tokens: [B, N], the pairs' followers.
        places: [B, N], as `places_of` gives them.
        counts: [B, C, K], how often a column's last 1 .. K tokens were seen.
        rooms: [B, C, K], the situation that makes.
        hits: [B, C, K], how often the column's label followed; the last column's is not known.
        labels: [B, C].
    """

    lengths: Tensor
    tokens: Tensor
    places: Tensor
    counts: Tensor
    rooms: Tensor
    hits: Tensor
    labels: Tensor


def look_up(sequence: Tensor, columns: int, window: int, order: int, vocab_size: int) -> Seen:
    """What the tokens [B, N] of a document say of the last `columns` of them."""
    lengths = match_lengths(sequence, columns, window, order)
    tokens = followers(sequence)
    counts, rooms = occurrences(lengths, tokens, order)
    labels = tokens[:, -columns:]
    hits = agreements(lengths, tokens, labels, order)
    return Seen(lengths, tokens, places_of(tokens, vocab_size), counts, rooms, hits, labels)


class NgramMixture(Scores):
    """Log-probabilities of the mixture, normalised; those below where no token was seen before.

    The shares of a column are learned from what the distributions below gave to labels before it,
    so that columns are weighed in their order, whatever the order in which they are asked for.

    Attributes:
        seen: what the document so far says of the chunk.
        chances: [B, C], what the distributions below gave to `seen.labels`.
        last: [B, V], the log-probabilities below at each lane's last scored column.
    """

    normalised = True

    def __init__(
        self,
        below: Scores,
        seen: Seen,
        window: Window,
        evidence: Tensor,
        grid: Tensor,
        learn: Callable[..., tuple[Tensor, Tensor]],
        mix: Callable[..., Tensor],
    ):
        super().__init__(*below.shape)
        self.hidden = below.hidden
        self.seen = seen
        self.chances = torch.zeros_like(seen.labels, dtype=evidence.dtype)
        self.last = evidence.new_zeros(below.shape[0], below.shape[2])
        self._shares = torch.zeros_like(seen.counts, dtype=evidence.dtype)
        self._below = below
        self._mask = window.mask
        self._before = self._evidence = evidence
        self._grid = grid
        self._final = (window.scored - 1).clamp_min(0)[:, None]  # [B, 1]
        self._read = 0
        self._learn, self._mix = learn, mix

    def rows(self, start: int, stop: int) -> Tensor:
        self.read(start)
        rows = self._below.rows(start, stop).detach()
        kept = torch.log_softmax(rows, dim=-1, dtype=torch.float32)
        self._weigh(kept, start, stop)
        seen = self.seen
        shares, counts = self._shares[:, start:stop], seen.counts[:, start:stop]
        return self._mix(
            kept, seen.lengths[:, start:stop], seen.tokens, seen.places, shares, counts
        )

    def read(self, stop: int) -> None:
        """Weighs the columns before `stop`, where nobody has asked for them."""
        if self._read < stop:
            self.rows(self._read, stop)

    def _weigh(self, kept: Tensor, start: int, stop: int) -> None:
        """Finds the shares of those of the columns start .. stop-1 that have none yet."""
        if self._read >= stop:
            return
        new, seen = slice(self._read, stop), self.seen
        kept = kept[:, self._read - start :]
        self.chances[:, new] = kept.gather(2, seen.labels[:, new, None])[..., 0].exp()
        self._shares[:, new], self._evidence = self._learn(
            self._evidence,
            self._grid,
            self.chances[:, new],
            seen.counts[:, new],
            seen.hits[:, new],
            seen.rooms[:, new],
            self._mask[:, new],
        )
        inside = (self._final >= new.start) & (self._final < stop)
        place = (self._final - new.start).clamp(0, kept.shape[1] - 1)
        row = kept.gather(1, place[..., None].expand(-1, -1, kept.shape[2]))[:, 0]
        self.last = torch.where(inside, row, self.last)
        self._read = stop

    def evidence_after(self, targets: Tensor) -> Tensor:
        """The evidence [B, K, R, G] after the whole chunk, once its targets [B, C] are known."""
        self.read(self.shape[1])
        seen, final = self.seen, self._final
        target = targets.gather(1, final)
        chances = self.chances.scatter(1, final, self.last.gather(1, target).exp())
        size, order = seen.lengths.shape[2], seen.hits.shape[2]
        lengths = seen.lengths.gather(1, final[..., None].expand(-1, -1, size))
        index = final[..., None].expand(-1, -1, order)
        hits = seen.hits.scatter(1, index, agreements(lengths, seen.tokens, target, order))
        counts, rooms = seen.counts, seen.rooms
        _, after = self._learn(self._before, self._grid, chances, counts, hits, rooms, self._mask)
        return trust.centred(after)


def mixed(
    kept: Tensor, lengths: Tensor, tokens: Tensor, places: Tensor, shares: Tensor, counts: Tensor
) -> Tensor:
    """Log-probabilities [B, n, V] of the mixture with those below, `kept`.

    Each order spreads its share evenly over the pairs that it has seen, so that what a pair gives
    to its follower depends on how many tokens it shares alone. The vocabulary is much larger than
    the memory: a token's gains are added up at one of its places there, and only there is anything
    read or written beside one pass over the vocabulary.

    Args:
        kept: [B, n, V].
        lengths: [B, n, N] int8.
        tokens: [B, N], the followers.
        places: [B, N], as `places_of` gives them.
        shares: [B, n, K], of each order in all orders up to it.
        counts: [B, n, K], pairs that each order has seen.
    """
    left = torch.ones_like(shares[..., :1])
    each = []
    for k in range(shares.shape[2] - 1, -1, -1):
        share = shares[..., k : k + 1]
        each.append(left * share / counts[..., k : k + 1].clamp_min(1))
        left = left * (1 - share)
    of_order = torch.cat([torch.zeros_like(left), *reversed(each)], -1)
    gains = of_order.cumsum(-1).gather(2, lengths.long())  # [B, n, N]
    token, place = (index[:, None].expand_as(gains) for index in (tokens, places))
    total = torch.zeros_like(gains).scatter_add(2, place, gains).gather(2, place)
    kept = kept + left.log()
    # Places of the same token write the same value.
    return kept.scatter_(2, token, torch.logaddexp(kept.gather(2, token), total.log()))


def places_of(tokens: Tensor, vocab_size: int) -> Tensor:
    """[B, N]: for each of the tokens [B, N] one place in its lane that holds the same token."""
    each = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    last = tokens.new_empty(len(tokens), vocab_size).scatter_(1, tokens, each)
    return last.gather(1, tokens)
