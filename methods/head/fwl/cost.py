"""FLOP formulas of a fast weight layer, without the unembedding."""

from __future__ import annotations

from tta_bench_methods.head.fwl.layer import FastWeightLayer


def slow_flops(layer: FastWeightLayer, positions: int) -> float:
    """FLOPs of the slow pass over `positions` of one lane, E apart."""
    return 2.0 * positions * (layer.w1.numel() + layer.w2.numel())


def layer_flops(layer: FastWeightLayer, positions: int) -> float:
    """FLOPs of reading and writing C = `positions` of one lane in one step, E apart.

    With every kernel and bias fast, nothing forgotten and m = 4d: 56 d^2 + 20 d (C - 1) a
    position. Forgetting adds 8 d^2, since a fading sum cannot be folded into the weight, and
    16 d^2 for each further rate. A preconditioned sum cannot be folded either, and a learned
    preconditioner adds 4 d^2.
    """
    (inner, width), outer = layer.w1.shape, layer.w2.shape[1]
    first, second = inner * width, width * outer
    forgets = len(layer.log_half_lives) > 0
    products = first + second  # slow pass
    pairs = 0
    if layer.first_is_fast:
        products += second  # d1
    if "w1" in layer.log_steps:
        products += 2 * layer.rates * first  # reading the sum of x d1, and adding to it
        pairs += inner
    if "w2" in layer.log_steps:
        # Read as one kernel with the slow one, or beside it.
        products += second * (2 if layer.folds else 2 * layer.rates + 1)
        pairs += width
    else:
        products += second
    products += sum(step.products for step in layer.preconditioners.values())
    if layer.first_is_fast:
        pairs += width
    if "w2" in layer.log_steps or "b2" in layer.log_steps:
        pairs += outer
    if forgets:  # what is not forgotten is a running sum
        pairs += outer * sum(name in layer.log_steps for name in ("alpha", "beta"))
    return 2.0 * positions * (products + pairs * (positions - 1))
