"""What a sum of outer products says: its directions, each of them as loud as the others.

    M = U diag(s) V^T    ->    S = U_q V_q^T

The q leading singular values become one, the rest vanishes (Chen et al. 2024, arXiv 2411.05877).
With q below the size of M the directions are those of a randomised decomposition with one power
iteration (Halko et al. 2011), whose draw is given. Directions that M does not have are left out: of
a chunk with fewer tokens than q there are as many as tokens.

S is what M becomes within an orthonormal basis of its directions: the polar factor of Q^T M. Basis
and factor are made of products, norms and divisions, a fixed number of them, and no decomposition
is asked for: a library's waits for the device. The derivative of S is written out. It is defined
wherever the singular values that are kept are not zero, equal ones included, where what PyTorch has
for the factors of a decomposition divides by their difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-6
"""Beside what is divided by, as in the authors' code."""

_LEAST = 1e-8
"""The smallest singular value, as a share of the Frobenius norm, that becomes one."""

_STEEPEST = 1.69770248526
"""The largest factor: with a larger one what is near one would come near zero, where it loses its
digits (Chen & Chow 2014, A stable scaling of Newton-Schulz)."""


def _scales() -> Iterator[float]:
    """Factors before each step of Newton-Schulz that raise small values soonest."""
    least = _LEAST
    while least < 1 - 1e-9:
        scale = min(_STEEPEST, (3 / (1 + least + least**2)) ** 0.5)
        yield scale
        least = 0.5 * scale * least * (3 - (scale * least) ** 2)
    yield 1.0


_SCALES = tuple(_scales())


def equalised(products: Tensor, draw: Tensor | None = None) -> Tensor:
    """S [..., a, b] of M [..., a, b]; zeros of zeros.

    Args:
        products: M.
        draw: [min(a, b), q] normal numbers; None: all directions that M has, as `_nothing` says.
    """
    if products.shape[-2] < products.shape[-1]:
        return equalised(products.mT, draw).mT
    if draw is None:
        basis = _Span.apply(products)
    else:
        basis = _Span.apply(products @ draw)
        basis = _Span.apply(products.mT @ basis)
        basis = _Span.apply(products @ basis)
    return basis @ _Level.apply(basis.mT @ products)


def of_unit_size(products: Tensor, norm: Literal["frobenius", "spectral"]) -> Tensor:
    """M [..., a, b] over one of its norms: its singular values keep their ratios."""
    if norm == "frobenius":
        return products / (products.square().sum((-2, -1), keepdim=True) + EPSILON).sqrt()
    return products / (torch.linalg.matrix_norm(products, 2, keepdim=True) + EPSILON)


def equalised_flops(rows: int, columns: int, directions: int | None) -> float:
    """FLOPs of `equalised` for one M."""
    long, short = max(rows, columns), min(rows, columns)
    q = short if directions is None else directions
    products = 2.0 * q * 2 * long * short + len(_SCALES) * 4.0 * q**2 * short
    if directions is None:
        return products + _span_flops(long, q)
    products += 2.0 * q * 3 * long * short
    return products + 2 * _span_flops(long, q) + _span_flops(short, q)


def _span_flops(rows: int, columns: int) -> float:
    return 2.0 * columns**2 * (2 * rows + columns)


class _Level(torch.autograd.Function):
    """U V^T of a matrix [..., q, b] whose rows are independent, or zero: those stay zero.

    By the iteration of Newton and Schulz. Its derivative solves H T + T H = K, with H the symmetric
    factor of the matrix, by the same iteration on [[H, K], [0, -H]] (Higham 2008, chapter 5).
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        wide = matrix.double()
        size = _size(wide)
        level = wide / size
        for scale in _SCALES:
            square = level @ level.mT
            level = 1.5 * scale * level - 0.5 * scale**3 * (square @ level)
        ctx.save_for_backward(level, level @ (wide / size).mT, size)
        return level.to(matrix.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        level, factor, size = ctx.saved_tensors
        there = level.square().sum(-1, keepdim=True) > 0.5  # of a row that is zero nothing is asked
        incoming = torch.where(there, gradient.double(), 0.0)
        along = incoming @ level.mT
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        turn, inverse = along - along.mT, eye
        for scale in _SCALES:
            weight = 1.5 * scale * eye - 0.5 * scale**3 * (factor @ factor)
            mixed = factor @ turn
            mixed = mixed + mixed.mT  # H T - T H, since H is symmetric and T antisymmetric
            turn = turn @ weight - 0.5 * scale**3 * (factor @ mixed)
            factor, inverse = factor @ weight, inverse @ weight
        beyond = inverse @ (incoming - along @ level)
        return ((0.5 * turn @ level + beyond) / size).to(gradient.dtype)


class _Span(torch.autograd.Function):
    """An orthonormal basis of a matrix's columns; zeros in place of directions that it has not.

    By the modified Gram-Schmidt process, in float64. Its derivative leaves out how the basis turns
    within its own span: it is for functions of the span alone.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        rows, columns = matrix.shape[-2:]
        rest = matrix.double()
        floor = _nothing(matrix) * rest.norm(dim=-2).amax(-1)
        # Below the matrix what is done to its columns: in the end the inverse of its triangle.
        eye = torch.eye(columns, dtype=rest.dtype, device=rest.device)
        rest = torch.cat([rest, eye.expand(*rest.shape[:-2], -1, -1)], dim=-2)
        found = []
        for number in range(columns):
            column = rest[..., number]
            norm = column[..., :rows].norm(dim=-1)
            column = column / norm.where(norm > floor, torch.inf)[..., None]
            share = column[..., None, :rows] @ rest[..., :rows, :]
            rest = rest - column[..., None] @ share
            found.append(column)
        basis, inverse = torch.stack(found, dim=-1).split([rows, columns], dim=-2)
        ctx.save_for_backward(basis, inverse)
        return basis.to(matrix.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        basis, inverse = ctx.saved_tensors
        incoming = gradient.double()
        beyond = incoming - basis @ (basis.mT @ incoming)
        return (beyond @ inverse.mT).to(gradient.dtype)


def _size(matrix: Tensor) -> Tensor:
    """[..., 1, 1], the Frobenius norm; one of zeros."""
    size = matrix.square().sum((-2, -1), keepdim=True).sqrt()
    return size.where(size > 0, 1.0)


def _nothing(matrix: Tensor) -> float:
    """What is left of a column counts as nothing below this share of the longest one: half of the
    digits of the dtype, 3.5e-4 in float32, and 1e-6 at least."""
    return max(torch.finfo(matrix.dtype).eps ** 0.5, 1e-6)
