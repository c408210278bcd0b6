"""A small network as memory: reads with fast weights, and its gradients, by hand.

    z_0 = z,  z_l = a_{l-1} W_l,  a_l = gelu(z_l)        mem(z) = z + (1 + gain) LN(z_L)

Fast are the gain and every W_l; LN has no weights of its own. The loss of a position is
|mem(k) - v|^2 / 2, summed over features. Its gradient at a weight is an outer product, of the
layer's input a_{l-1} and the gradient d_l at its output, so that weights which differ from position
to position need not be written out: z W_t = z W - sum_s coupling_ts (z . a_s) d_s.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench_methods.head.titans.scan import Scan

EPS = 1e-5
"""Added to the variance in LN."""


class Weights(NamedTuple):
    """A memory, a gradient or a momentum: one tensor each for the gain and every layer."""

    gain: Tensor
    """[..., w]."""

    layers: tuple[Tensor, ...]
    """[..., in, out] each."""


class Steps(NamedTuple):
    """Rates times gradients of T positions, as factors."""

    gain: Tensor
    """[..., T, w]."""

    inputs: tuple[Tensor, ...]
    """The inputs of each layer, [..., T, in]."""

    deltas: tuple[Tensor, ...]
    """Gradients at the outputs of each layer, [..., T, out]; times inputs they are the steps."""


def standardised(z: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """LN without weights over the last dimension, and the deviation [..., 1] it divides by."""
    centred = z - z.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / deviation, deviation


def through_norm(gradient: Tensor, unit: Tensor, deviation: Tensor) -> Tensor:
    """The gradient at the input of LN, given the one at its output `unit`.

    All three terms are divided by the deviation. (The reference code of flash-linear-attention's
    Titans divides two of them alone, which is no gradient.)
    """
    mean = gradient.mean(-1, keepdim=True)
    return (gradient - mean - unit * (gradient * unit).mean(-1, keepdim=True)) / deviation


def gelu_slope(z: Tensor) -> Tensor:
    """The derivative of the exact GELU."""
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density


def read(memory: Weights, queries: Tensor) -> Tensor:
    """mem(q) with the same weights at every position, [..., T, w]."""
    z = queries
    for number, layer in enumerate(memory.layers):
        z = (z if number == 0 else F.gelu(z)) @ layer
    unit, _ = standardised(z)
    return queries + (1 + memory.gain[..., None, :]) * unit


def steps(
    memory: Weights, keys: Tensor, values: Tensor, rates: Tensor, longest: float = math.inf
) -> Steps:
    """Rates times the gradients of |mem(k) - v|^2 / 2, all at the same weights.

    Args:
        memory: where the gradients are taken.
        keys: [..., T, w].
        values: [..., T, w].
        rates: [..., T].
        longest: bound of a position's gradient g over all tensors, g / sqrt(1 + |g|^2 / bound^2).
    """
    inputs, sums = [keys], list[Tensor]()
    for number, layer in enumerate(memory.layers):
        if number:
            inputs.append(F.gelu(sums[-1]))
        sums.append(inputs[-1] @ layer)
    unit, deviation = standardised(sums[-1])
    gain = 1 + memory.gain[..., None, :]
    error = keys + gain * unit - values
    deltas = [through_norm(gain * error, unit, deviation)]
    for layer, z in zip(memory.layers[:0:-1], sums[-2::-1], strict=True):
        deltas.append((deltas[-1] @ layer.mT) * gelu_slope(z))
    deltas.reverse()
    squared = _squared(error * unit)
    for a, delta in zip(inputs, deltas, strict=True):
        squared = squared + _squared(a) * _squared(delta)
    shares = rates[..., None] * (1 + squared / longest**2).rsqrt()
    return Steps(shares * error * unit, tuple(inputs), tuple(shares * delta for delta in deltas))


def _squared(values: Tensor) -> Tensor:
    return values.square().sum(-1, keepdim=True)


def read_moving(
    memory: Weights,
    momentum: Weights | None,
    taken: Steps,
    scan: Scan,
    queries: Tensor,
    origin: Weights | None = None,
) -> Tensor:
    """mem(q_t; origin + M_t): every position reads with weights of its own, [..., T, w].

    Args:
        memory: M before the first position.
        momentum: S before the first position, where there is one.
        taken: the steps of these positions.
        scan: how M_t is made of the three.
        queries: [..., T, w].
        origin: weights that stay, where there are any.
    """
    z = queries
    for number, layer in enumerate(memory.layers):
        held = None if momentum is None else momentum.layers[number]
        a = z if number == 0 else F.gelu(z)
        z = through_moving(a, layer, held, taken.inputs[number], taken.deltas[number], scan)
        if origin is not None:
            z = z + a @ origin.layers[number]
    gain = scan.left[..., None] * memory.gain[..., None, :] - scan.coupling @ taken.gain
    if momentum is not None:
        gain = gain + _of(scan.pushed)[..., None] * momentum.gain[..., None, :]
    if origin is not None:
        gain = gain + origin.gain[..., None, :]
    unit, _ = standardised(z)
    return queries + (1 + gain) * unit


def through_moving(
    a: Tensor, layer: Tensor, held: Tensor | None, inputs: Tensor, deltas: Tensor, scan: Scan
) -> Tensor:
    """a_t W_t of one layer, [..., T, out].

    Args:
        a: [..., T, in].
        layer: W before the first position.
        held: its momentum, where there is one.
        inputs: of the steps, [..., T, in].
        deltas: of the steps, [..., T, out].
        scan: how W_t is made of them.
    """
    seen = scan.coupling * (a @ inputs.mT)
    z = scan.left[..., None] * (a @ layer) - seen @ deltas
    return z if held is None else z + _of(scan.pushed)[..., None] * (a @ held)


def moved(
    memory: Weights, momentum: Weights | None, taken: Steps, scan: Scan
) -> tuple[Weights, Weights | None]:
    """M and S after the last position."""
    after = plus(_scaled(memory, scan.left[..., -1]), _total(taken, -scan.coupling[..., -1, :]))
    if momentum is None:
        return after, None
    held = plus(_scaled(momentum, _of(scan.surviving)), _total(taken, -_of(scan.recent)))
    return plus(after, _scaled(momentum, _of(scan.pushed)[..., -1])), held


def _total(taken: Steps, shares: Tensor) -> Weights:
    """The sum of the steps, each times its share [..., T]."""
    factors = zip(taken.inputs, taken.deltas, strict=True)
    layers = tuple((shares[..., None] * inputs).mT @ deltas for inputs, deltas in factors)
    return Weights((shares[..., None, :] @ taken.gain)[..., 0, :], layers)


def _scaled(weights: Weights, share: Tensor) -> Weights:
    layers = tuple(share[..., None, None] * layer for layer in weights.layers)
    return Weights(share[..., None] * weights.gain, layers)


def plus(one: Weights, two: Weights) -> Weights:
    """The sum of two, tensor by tensor."""
    layers = tuple(a + b for a, b in zip(one.layers, two.layers, strict=True))
    return Weights(one.gain + two.gain, layers)


def _of(coefficient: Tensor | None) -> Tensor:
    """What a scan with momentum has."""
    assert coefficient is not None
    return coefficient
