"""The next-token distributions of one step, and the losses that the engine computes from them.

Distributions are produced a few chunk columns at a time, so that the [B, C, V] array of a large
vocabulary never exists as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


class Scores:
    """Distributions over the vocabulary for the B x C predictions of one step.

    `normalised` says that `rows` gives log-probabilities that sum to one over the whole vocabulary
    (for methods that mix probabilities); the engine verifies it. Otherwise the engine normalises.

    `hidden` [B, C, d] are the states that the distributions were computed from, None where there
    are none; a method that changes distributions hands on those of the `Scores` it was given.
    """

    normalised = False
    hidden: Tensor | None = None

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
        self.unembed = unembed

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


def row_losses(rows: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in float32, in nats, [B, n], of logits [B, n, V] and targets [B, n].

    Compiled, it reads the logits as they are and never writes their float32 or their softmax.
    """
    flat = rows.flatten(0, 1).float()
    return F.cross_entropy(flat, targets.flatten(), reduction="none").view(targets.shape)


def token_nll(
    scores: Scores,
    read_targets: Callable[[], Tensor],
    mask: Tensor,
    gradients: bool = False,
    losses_of: Callable[[Tensor, Tensor], Tensor] = row_losses,
) -> Tensor:
    """Negative log-likelihood of every target, in nats, float32: [B, C]; 0 at padding.

    The targets are read only once the first slice of rows has been computed. That is all of the
    rows unless they take more than `SLICE_BYTES`: then the later slices are computed while the
    targets exist, and so is what a backward pass computes again (`RETAINED_BYTES`).

    Args:
        scores: the distributions of the step.
        read_targets: gives the targets, [B, C] int64; any valid id at padding.
        mask: [B, C] bool, True where a token is scored.
        gradients: keep what a backward pass through the result needs.
        losses_of: `row_losses`, or the same function compiled.

    Raises:
        MethodError: the method returns log-probabilities as normalised whose sum is not one.
    """
    lanes, columns, vocab = scores.shape
    column_bytes = lanes * vocab * 4
    most = SLICE_BYTES.get(mask.device.type, SLICE_BYTES["cpu"])
    kept = RETAINED_BYTES.get(mask.device.type, RETAINED_BYTES["cpu"])
    again = gradients and column_bytes * columns > kept
    slices = math.ceil(columns / max(1, most // column_bytes))
    if gradients and not again:
        slices = 1  # all is kept for the backward pass, and gradients of slices would be added up
    step = math.ceil(columns / slices)  # even slices: few shapes to compile for

    def of_slice(start: int, stop: int) -> Tensor:
        rows = plain(scores.rows(start, stop))
        if scores.normalised:
            log_probs = rows.float()
            finite = _check_normalised(log_probs.detach(), mask[:, start:stop])
            losses = -log_probs.gather(2, read_targets()[:, start:stop, None])[..., 0]
            return losses.masked_fill(~finite, math.nan)
        return losses_of(rows, read_targets()[:, start:stop])

    pieces: Sequence[Tensor] = [
        checkpoint(of_slice, start, min(start + step, columns), use_reentrant=False)
        if again
        else of_slice(start, min(start + step, columns))
        for start in range(0, columns, step)
    ]
    return torch.cat(list(pieces), dim=1).masked_fill(~mask, 0.0)


def _check_normalised(log_probs: Tensor, mask: Tensor) -> Tensor:
    """[B, n] bool: which rows of log-probabilities [B, n, V] have a finite sum, which must be one.

    A NaN or an infinite probability anywhere in a row leaves it without one: its document has
    diverged, even where the target's own entry is finite. Minus infinity is a probability of zero.
    """
    sums = torch.logsumexp(log_probs, dim=2)
    finite = sums.isfinite()
    error = sums.masked_fill(~mask | ~finite, 0.0).abs().max().item()
    if error > NORMALISATION_TOLERANCE:
        raise MethodError(
            f"the method's log-probabilities do not sum to one (|log sum| = {error:.2g}); "
            "return logits, or normalise over the whole vocabulary."
        )
    return finite
