"""What a sum of outer products says: its directions, each of them as loud as the others.

    M = U diag(s) V^T    ->    S = U_q V_q^T

The q leading singular values become one, the rest vanishes (Chen et al. 2024, arXiv 2411.05877).
With q below the size of M the directions are those of a randomised decomposition with one power
iteration (Halko et al. 2011), whose draw is given. Directions that M does not have are left out: of
a chunk with fewer tokens than q there are as many as tokens.

Both derivatives are written out. S is a function of M wherever its directions stand apart from
nothing, also where two singular values are equal; what PyTorch has for the factors of a
decomposition divides by their difference.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-6
"""Beside what is divided by, as in the authors' code."""


def equalised(products: Tensor, draw: Tensor | None = None) -> Tensor:
    """S [..., a, b] of M [..., a, b]; zeros of zeros.

    Args:
        products: M.
        draw: [min(a, b), q] normal numbers; None: all directions, by an exact decomposition.
    """
    if draw is None:
        return _Level.apply(products)
    if products.shape[-2] < products.shape[-1]:
        return equalised(products.mT, draw).mT
    basis = _Span.apply(products @ draw)
    basis = _Span.apply(products.mT @ basis)
    basis = _Span.apply(products @ basis)
    return basis @ _Level.apply(basis.mT @ products)


def of_unit_size(products: Tensor, norm: Literal["frobenius", "spectral"]) -> Tensor:
    """M [..., a, b] over one of its norms: as loud in all, its directions as they stand."""
    if norm == "frobenius":
        return products / (products.square().sum((-2, -1), keepdim=True) + EPSILON).sqrt()
    return products / (torch.linalg.matrix_norm(products, 2, keepdim=True) + EPSILON)


def equalised_flops(rows: int, columns: int, directions: int | None) -> tuple[float, float]:
    """FLOPs of `equalised` for one M: of products, and of decompositions.

    The latter are those that Golub & Van Loan (2013) give for the SVD after Golub & Reinsch and for
    the eigenvectors of a symmetric matrix.
    """
    long, short = max(rows, columns), min(rows, columns)
    if directions is None:
        return 2.0 * long * short**2, 14.0 * long * short**2 + 8.0 * short**3
    q = directions
    return 2.0 * q * (5 * long * short + 4 * q * long + 5 * q * short), 36.0 * q**3


class _Level(torch.autograd.Function):
    """U V^T of a matrix, over the singular values that are not nothing beside the largest."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        wide = matrix.shape[-2] < matrix.shape[-1]
        u, s, vh = _of_gram(matrix) if wide else torch.linalg.svd(matrix, full_matrices=False)
        kept = s > _nothing(s) * s[..., :1]
        u, v = u * kept[..., None, :], vh.mT * kept[..., None, :]
        ctx.save_for_backward(u, s.masked_fill(~kept, torch.inf), v)
        return u @ v.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        u, s, v = ctx.saved_tensors
        left, right = u.mT @ gradient, gradient @ v
        inner = left @ v
        turned = (inner - inner.mT) / (s[..., :, None] + s[..., None, :])
        beyond_right = (left - inner @ v.mT) / s[..., :, None]
        beyond_left = (right - u @ inner) / s[..., None, :]
        return u @ (turned @ v.mT + beyond_right) + beyond_left @ v.mT


def _of_gram(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, s and V^T of a wide matrix [..., q, b], by the eigenvectors of the square M M^T.

    A GPU finds those of small squares side by side, but takes QR and SVD of anything else one by
    one. In float64 a square has twice the digits that it loses; V^T is nothing where s is.
    """
    wide = matrix.double()
    squares, u = torch.linalg.eigh(wide @ wide.mT)
    s = squares.clamp_min(0).sqrt().flip(-1)
    u = u.flip(-1)
    inverse = torch.where(s > _nothing(matrix) * s[..., :1], s.reciprocal(), 0.0)
    vh = (u * inverse[..., None, :]).mT @ wide
    return u.to(matrix.dtype), s.to(matrix.dtype), vh.to(matrix.dtype)


class _Span(torch.autograd.Function):
    """An orthonormal basis of a matrix's columns; zeros in place of directions that it has not.

    Its derivative leaves out how the basis turns within its own span: it is for functions of the
    span alone.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        u, s, vh = _of_gram(matrix.mT)
        kept = s > _nothing(s) * s[..., :1]
        ctx.save_for_backward(u / s.masked_fill(~kept, torch.inf)[..., None, :], vh.mT)
        return vh.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        inverse, basis = ctx.saved_tensors
        beyond = gradient - basis @ (basis.mT @ gradient)
        return beyond @ inverse.mT


def _nothing(values: Tensor) -> float:
    """The share of the largest below which a singular value is noise.

    Half of the digits of float32, and in float64 those that a square M M^T still has.
    """
    return max(torch.finfo(values.dtype).eps ** 0.5, 1e-6)
