"""One step of dynamic evaluation on all adapted tensors of all lanes.

Every tensor is [B, ...], a slice for each lane. What differs between lanes (how many tokens they
scored, how many steps they took, whether enough have been read) is a vector [B].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tta_bench_methods.parameter.dynamic_eval.rules import Rule


class Update(NamedTuple):
    """How a step is taken; see `Options`."""

    rule: Rule
    lr: float
    prior: float
    clip: float | None
    interval: int | None


class Adapted(NamedTuple):
    """One parameter of all lanes, and what belongs to it."""

    weight: Tensor  # theta in float32 [B, ...]
    read: Tensor  # the same in the model's dtype; in float32 the very same tensor
    slots: list[Tensor]  # the rule's own tensors [B, ...]
    waiting: Tensor | None  # with an interval: the summed gradients since the last step [B, ...]
    start: Tensor | None  # theta0 [...], for rules that pull back to it
    statistics: Tensor | None  # of gradients offline, for rules that divide by them


@torch.no_grad()
def step(
    update: Update,
    parameters: list[Adapted],
    gradients: list[Tensor],
    scored: Tensor,
    tokens_waiting: Tensor,
    steps: Tensor,
    change: Callable[..., None],
) -> None:
    """Changes the parameters, their slots and counters in place.

    Args:
        update: the rule and its settings.
        parameters: what is adapted.
        gradients: of each lane's mean loss in this chunk; with an interval of its summed loss.
        scored: [B], tokens scored in this chunk.
        tokens_waiting: [B], with an interval the tokens since the last step.
        steps: [B], steps taken.
        change: `change_one`, or the same compiled.
    """
    stepping: Tensor | None = None
    if update.interval is not None:
        tokens_waiting += scored
        stepping = tokens_waiting >= update.interval
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert parameter.waiting is not None
            parameter.waiting.add_(gradient)
        tokens = tokens_waiting.clamp_min(1)
        gradients = [
            p.waiting / _over(tokens, p.waiting) for p in parameters if p.waiting is not None
        ]
    steps += 1 if stepping is None else stepping
    scales = update.rule.scales(steps)
    shrink: Tensor | None = None
    if update.clip is not None:
        squares = [gradient.float().flatten(1).square().sum(1) for gradient in gradients]
        norm = torch.stack(squares).sum(0).sqrt()
        shrink = (update.clip / norm.clamp_min(1e-12)).clamp(max=1.0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        change(update, parameter, gradient, scales, shrink, stepping)
    if stepping is not None:
        tokens_waiting.masked_fill_(stepping, 0)


@torch.no_grad()
def change_one(
    update: Update,
    parameter: Adapted,
    gradient: Tensor,
    scales: list[Tensor],
    shrink: Tensor | None,
    stepping: Tensor | None,
) -> None:
    """The rule on one parameter. Compiled, it is one pass over memory.

    Args:
        update: the rule and its settings.
        parameter: is changed in place.
        gradient: [B, ...].
        scales: what the rule needs of the number of this step, each [B].
        shrink: [B], a factor on the gradients, or None.
        stepping: [B], which lanes step; None: all.
    """
    weight = parameter.weight
    gradient = gradient.float()
    if shrink is not None:
        gradient = gradient * _over(shrink, gradient)
    own = [weight, *parameter.slots]
    before = [] if stepping is None else [value.clone() for value in own]
    update.rule.step(
        weight=weight,
        start=parameter.start,
        gradient=gradient,
        slots=parameter.slots,
        scales=[_over(scale, weight) for scale in scales],
        lr=update.lr,
        prior=update.prior,
        statistics=parameter.statistics,
    )
    if stepping is not None:
        assert parameter.waiting is not None
        for value, old in zip(own, before, strict=True):
            value.copy_(torch.where(_over(stepping, value), value, old))
        parameter.waiting.masked_fill_(_over(stepping, weight), 0.0)
    if parameter.read is not weight:
        parameter.read.copy_(weight)


def _over(values: Tensor, like: Tensor) -> Tensor:
    """[B] as it broadcasts over [B, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))
