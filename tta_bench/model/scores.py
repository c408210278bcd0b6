"""The next-token distributions of one step, and the losses that the engine computes from them.

Distributions are produced a few chunk columns at a time, so that the [B, C, V] array of a large
vocabulary never exists as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tta_bench.errors import MethodError

SLICE_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Float32 logits alive at once while scoring; what needs more is split into slices of columns.

A GPU needs large products to be busy, and where lanes have an unembedding of their own each slice
reads all of it again.
"""

RETAINED_BYTES = {"cpu": 4 * 2**30, "cuda": 16 * 2**30}
"""Float32 logits kept for a backward pass; what needs more is computed again in the backward, which
costs FLOPs that no formula counts."""

NORMALISATION_TOLERANCE = 1e-4
"""Largest |log sum exp| (nats) accepted where a method returns log-probabilities itself."""


_BLOCK = 64  # values whose largest is found at once


class Scores:
    """Distributions over the vocabulary for the B x C predictions of one step.

    `normalised` says that `rows` gives log-probabilities that sum to one over the whole vocabulary
    (for methods that mix probabilities); the engine verifies it. Otherwise the engine normalises.

    `hidden` [B, C, d] are the states that the distributions were computed from, None where there
    are none; a method that changes distributions hands on those of the `Scores` it was given.
    `unembed` maps [..., d] to logits [..., V]; None where the rows are more than `unembed(hidden)`.
    """

    normalised = False
    hidden: Tensor | None = None
    unembed: Callable[[Tensor], Tensor] | None = None

    def __init__(self, lanes: int, chunk_size: int, vocab_size: int):
        self.shape = (lanes, chunk_size, vocab_size)

    def rows(self, start: int, stop: int) -> Tensor:
        """[B, stop-start, V]: logits, or log-probabilities, of chunk columns start .. stop-1."""
        raise MethodError(f"{type(self).__name__} does not define rows(start, stop).")

    def full(self) -> Tensor:
        """[B, C, V], all at once; for small vocabularies, tests and simple plugins."""
        return self.rows(0, self.shape[1])


class Logits(Scores):
    """Logits computed when asked for: `unembed` maps [..., d] to [..., V]."""

    def __init__(self, hidden: Tensor, unembed: Callable[[Tensor], Tensor], vocab_size: int):
        super().__init__(hidden.shape[0], hidden.shape[1], vocab_size)
        self.hidden: Tensor = hidden
        self.unembed: Callable[[Tensor], Tensor] = unembed

    def rows(self, start: int, stop: int) -> Tensor:
        return self.unembed(self.hidden[:, start:stop])


class DenseLogits(Scores):
    """Logits that a method returned as one [B, C, V] tensor."""

    def __init__(self, logits: Tensor):
        super().__init__(*logits.shape)
        self.logits = logits

    def rows(self, start: int, stop: int) -> Tensor:
        return self.logits[:, start:stop]


class LaneScores(Scores):
    """One `Scores` (of B = 1) a lane, for methods whose lanes have weights of their own.

    Lanes without an entry, and columns past a lane's own chunk, read as zero logits: padding that
    is never scored.
    """

    def __init__(self, parts: dict[int, Scores], lanes: int, chunk_size: int, vocab_size: int):
        super().__init__(lanes, chunk_size, vocab_size)
        self.parts = parts

    def rows(self, start: int, stop: int) -> Tensor:
        pieces: dict[int, Tensor] = {}
        for lane, part in self.parts.items():
            own = min(stop, part.shape[1])
            if own > start:
                piece = part.rows(start, own)
                pieces[lane] = F.pad(piece, (0, 0, 0, stop - own)) if stop > own else piece
        if not pieces:  # columns that no lane scores, where windows are wider than any needs
            lane, part = next(iter(self.parts.items()))
            pieces[lane] = torch.zeros_like(part.rows(0, 1)).expand(-1, stop - start, -1)
        blank = torch.zeros_like(next(iter(pieces.values())))
        return torch.cat([pieces.get(lane, blank) for lane in range(self.shape[0])])


def as_scores(returned: object, shape: tuple[int, int, int]) -> Scores:
    """Accepts what `Method.score` returned, or says what is wrong with it.

    Raises:
        MethodError: neither `Scores` nor a floating tensor of `shape` = (B, C, V).
    """
    if isinstance(returned, Tensor):
        if tuple(returned.shape) != shape:
            raise MethodError(
                f"score returned a tensor of shape {tuple(returned.shape)}; "
                f"it must be [lanes, chunk, vocabulary] = {shape}."
            )
        return DenseLogits(plain(returned))
    if not isinstance(returned, Scores):
        raise MethodError(
            f"score returned {type(returned).__name__}; return logits of shape {shape} or a Scores."
        )
    if returned.shape != shape:
        raise MethodError(f"score returned Scores of shape {returned.shape}, not {shape}.")
    return returned


def plain(tensor: Tensor) -> Tensor:
    """The tensor as one of PyTorch's own class: a subclass could answer for its own losses."""
    if type(tensor) is Tensor:
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def row_losses(rows: Tensor, targets: Tensor, normalised: bool = False) -> Tensor:
    """Cross-entropy in float32, in nats, [B, n], of rows [B, n, V] and targets [B, n].

    Logits are normalised. Log-probabilities that a method says are `normalised` are held to it: a
    loss is minus infinity, which no distribution gives, where their sum is not one, and NaN where
    they have no finite sum. A NaN or an infinite probability anywhere in a row leaves it without
    one: its document has diverged, even where the target's own entry is finite. A log-probability
    of minus infinity is a probability of zero.

    Compiled, it reads the rows as they are and never writes their float32 or their softmax.
    """
    if not normalised:
        flat = rows.flatten(0, 1).float()
        return F.cross_entropy(flat, targets.flatten(), reduction="none").view(targets.shape)
    log_probs = rows.float()
    sums = torch.logsumexp(log_probs.detach(), dim=2)
    losses = -log_probs.gather(2, targets[..., None])[..., 0]
    losses = losses.masked_fill(sums.abs() > NORMALISATION_TOLERANCE, -math.inf)
    return losses.masked_fill(~sums.isfinite(), math.nan)


def row_top1(rows: Tensor, targets: Tensor) -> Tensor:
    """Whether each target is the most probable token, bool [B, n], of rows [B, n, V] as given.

    Of tokens that are equally probable the one of the lowest id counts, on every device: it is the
    one that greedy decoding writes, and a uniform distribution has one most probable token, not V.
    """
    return _most_probable(rows.detach()) == targets


def _most_probable(rows: Tensor) -> Tensor:
    """The first of the largest values of each row, [B, n] of [B, n, V].

    On a CPU a maximum with its place takes PyTorch some twenty times as long as the maximum alone,
    so the place is looked for among the maxima of blocks, and then in one block.
    """
    count = rows.shape[2] // _BLOCK * _BLOCK
    if rows.device.type != "cpu" or not count:
        return rows.max(2).indices  # the first of equal ones, as documented
    blocks = rows[..., :count].view(*rows.shape[:2], -1, _BLOCK)
    highest = blocks.amax(3)
    first = highest.max(2)
    block = blocks.gather(2, first.indices[..., None, None].expand(*rows.shape[:2], 1, _BLOCK))
    place = first.indices * _BLOCK + block[:, :, 0].max(2).indices
    if count == rows.shape[2]:
        return place
    rest = rows[..., count:].max(2)
    return torch.where(rest.values > first.values, count + rest.indices, place)


class Scored(NamedTuple):
    """What the engine keeps of the predictions of a step; 0 and False at padding.

    Attributes:
        nll: [B, C] float32, the negative log-likelihood of each target in nats.
        top1: [B, C] bool, whether it was the most probable token.
    """

    nll: Tensor
    top1: Tensor


def row_scored(rows: Tensor, targets: Tensor, normalised: bool = False) -> Scored:
    """`row_losses` and `row_top1`: compiled, both in one pass over the rows."""
    return Scored(row_losses(rows, targets, normalised), row_top1(rows, targets))


def token_nll(
    scores: Scores,
    read_targets: Callable[[], Tensor],
    mask: Tensor,
    gradients: bool = False,
) -> Tensor:
    """Negative log-likelihood of every target, in nats, float32: [B, C]; 0 at padding.

    The arguments are those of `token_scored`.
    """

    def losses_of(rows: Tensor, targets: Tensor, normalised: bool) -> tuple[Tensor]:
        return (row_losses(rows, targets, normalised),)

    (nll,) = _by_slices(scores, read_targets, mask, gradients, losses_of)
    return nll


def token_scored(
    scores: Scores,
    read_targets: Callable[[], Tensor],
    mask: Tensor,
    gradients: bool = False,
    scored_of: Callable[..., Scored] = row_scored,
) -> Scored:
    """The loss of every target, and whether it was the most probable token.

    The targets are read only once the first slice of rows has been computed. That is all of the
    rows unless they take more than `SLICE_BYTES`: then the later slices are computed while the
    targets exist, and so is what a backward pass computes again (`RETAINED_BYTES`).

    Args:
        scores: the distributions of the step.
        read_targets: gives the targets, [B, C] int64; any valid id at padding.
        mask: [B, C] bool, True where a token is scored.
        gradients: keep what a backward pass through the result needs.
        scored_of: `row_scored`, or the same function compiled.

    Raises:
        MethodError: the method returns log-probabilities as normalised whose sum is not one. While
            a CUDA graph is captured nothing can wait for values: whoever replays it has to call
            `refuse_unnormalised` on the losses that it gives.
    """
    return Scored(*_by_slices(scores, read_targets, mask, gradients, scored_of))


def kept_for_backward(shape: tuple[int, int, int], device: torch.device) -> bool:
    """Whether logits [B, C, V] are few enough to be computed at once and kept for gradients."""
    return 4 * math.prod(shape) <= RETAINED_BYTES.get(device.type, RETAINED_BYTES["cpu"])


def _by_slices(
    scores: Scores,
    read_targets: Callable[[], Tensor],
    mask: Tensor,
    gradients: bool,
    of_rows: Callable[..., tuple[Tensor, ...]],
) -> list[Tensor]:
    """What `of_rows(rows, targets, normalised)` gives, losses first, slice by slice of columns."""
    lanes, columns, vocab = scores.shape
    column_bytes = lanes * vocab * 4
    most = SLICE_BYTES.get(mask.device.type, SLICE_BYTES["cpu"])
    again = gradients and not kept_for_backward(scores.shape, mask.device)
    slices = math.ceil(columns / max(1, most // column_bytes))
    if gradients and not again:
        slices = 1  # all is kept for the backward pass, and gradients of slices would be added up
    step = math.ceil(columns / slices)  # even slices: few shapes to compile for

    def of_slice(start: int, stop: int) -> tuple[Tensor, ...]:
        rows = plain(scores.rows(start, stop))
        return of_rows(rows, read_targets()[:, start:stop], scores.normalised)

    pieces: list[tuple[Tensor, ...]] = [
        checkpoint(of_slice, start, min(start + step, columns), use_reentrant=False)
        if again
        else of_slice(start, min(start + step, columns))
        for start in range(0, columns, step)
    ]
    joined = [torch.cat(kind, dim=1).masked_fill(~mask, 0) for kind in zip(*pieces, strict=True)]
    if scores.normalised and not capturing(joined[0]):
        refuse_unnormalised(joined[0])
    return joined


def refuse_unnormalised(nll: Tensor) -> None:
    """Refuses losses of log-probabilities that do not sum to one, as `row_losses` marks them.

    Raises:
        MethodError: a loss is minus infinity.
    """
    if bool((nll == -math.inf).any()):
        raise MethodError(
            "the method's log-probabilities do not sum to one (|log sum| is above "
            f"{NORMALISATION_TOLERANCE:g}); return logits, or normalise over the whole vocabulary."
        )


def capturing(tensor: Tensor) -> bool:
    """Whether what is done to this tensor is being captured in a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
