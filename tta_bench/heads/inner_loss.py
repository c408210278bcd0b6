"""The inner loss of a head: the gradient of CE = -log softmax(E y)[label] at its output y."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel

SLICE_BYTES = {"cpu": 2**27, "cuda": 2**29}
"""Float32 logits alive at once; more is cut into slices of positions. A GPU needs large products to
be busy."""

VOCABULARY = 2**17
"""Width of logits that is assumed of a function, which does not tell its own."""

Unembedding = Tensor | Callable[[Tensor], Tensor]
"""E as a matrix [V, o], or any function [..., o] -> [..., V] that autograd goes through."""


def unembedding_of(model: LanguageModel) -> Unembedding:
    """The matrix E where logits are E y and nothing else, otherwise the model's own function."""
    matrix = model.unembedding
    return (lambda y: model.unembed(y.to(model.dtype))) if matrix is None else matrix


def loss_gradient(y: Tensor, labels: Tensor, weights: Tensor, unembedding: Unembedding) -> Tensor:
    """E^T (p - onehot(label)) times the weight, [B, T, o]: the inner loss's gradient at y.

    Where E is a matrix, its two products are written out: no backward pass, and while nothing has
    to be kept for one, logits live for a slice of positions at a time. Where it is a function
    (logits that are scaled or capped), autograd takes the gradient through it.

    Args:
        y: [B, T, o].
        labels: [B, T] int64.
        weights: [B, T].
        unembedding: E, or a function.
    """
    pieces = []
    for part in _slices(y, unembedding):
        if not isinstance(unembedding, Tensor):
            pieces.append(_autograd_gradient(y[:, part], labels[:, part], unembedding))
            continue
        # Probabilities in the dtype of the logits: in bfloat16 that halves the memory traffic.
        logits = y[:, part].to(unembedding.dtype) @ unembedding.mT
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probabilities = wide.softmax(-1).to(logits.dtype)
        expected = (probabilities @ unembedding).to(y.dtype)
        pieces.append(expected - F.embedding(labels[:, part], unembedding).to(y.dtype))
    gradient = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
    return gradient * weights[..., None].to(y.dtype)


def _autograd_gradient(y: Tensor, labels: Tensor, unembed: Callable[[Tensor], Tensor]) -> Tensor:
    differentiable = torch.is_grad_enabled()
    y = y if y.requires_grad else y.detach().requires_grad_()
    with torch.enable_grad():
        point = y.view_as(y)  # no leaf: the FLOP counter cannot differentiate with respect to one
        logits = unembed(point).to(y.dtype).flatten(0, 1)
        loss = F.cross_entropy(logits, labels.flatten(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point, create_graph=differentiable)
    return gradient


def _slices(y: Tensor, unembedding: Unembedding) -> list[slice]:
    """Positions whose logits may live at once; all of them where a backward pass needs them all."""
    lanes, length = y.shape[:2]
    if torch.is_grad_enabled():
        return [slice(0, length)]
    vocab = len(unembedding) if isinstance(unembedding, Tensor) else VOCABULARY
    most = SLICE_BYTES.get(y.device.type, SLICE_BYTES["cpu"])
    count = math.ceil(length / max(1, most // (4 * vocab * max(1, lanes))))
    step = max(1, math.ceil(length / max(1, count)))  # even slices, so that few shapes are compiled
    return [slice(start, start + step) for start in range(0, length, step)] or [slice(0, 0)]
