"""One step of dynamic evaluation on all adapted tensors of all lanes, compiled as a whole on a GPU.

Every tensor is [B, ...], a slice for each lane. What differs between lanes (how many tokens they
scored, how many steps they took, whether enough have been read) is a vector [B].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tta_bench_methods.dynamic_eval_rules import Rule


class Update(NamedTuple):
    """How a step is taken; see `DynamicEvaluation.Params`."""

    rule: Rule
    lr: float
    prior: float
    clip: float | None
    interval: int | None


@torch.no_grad()
def step(
    update: Update,
    weights: list[Tensor],
    read: list[Tensor],
    gradients: list[Tensor],
    slots: list[list[Tensor]],
    waiting: list[Tensor],
    starts: list[Tensor],
    statistics: list[Tensor],
    scored: Tensor,
    tokens_waiting: Tensor,
    steps: Tensor,
) -> None:
    """Changes everything but gradients, starts, statistics and `scored` in place.

    Args:
        update: the rule and its settings.
        weights: theta in float32, a tensor [B, ...] for each parameter.
        read: the same in the model's dtype.
        gradients: of each lane's mean loss in this chunk; with an interval of its summed loss.
        slots: the rule's tensors for each parameter.
        waiting: with an interval the summed gradients since the last step.
        starts: theta0 [...], for rules that pull back to it.
        statistics: of the gradients, for rules that divide by them.
        scored: [B], tokens scored in this chunk.
        tokens_waiting: [B], with an interval the tokens since the last step.
        steps: [B], steps taken.
    """
    gradients = [gradient.float() for gradient in gradients]
    stepping: Tensor | None = None
    if update.interval is not None:
        tokens_waiting += scored
        stepping = tokens_waiting >= update.interval
        tokens = tokens_waiting.clamp_min(1)
        for held, gradient in zip(waiting, gradients, strict=True):
            held += gradient
        gradients = [held / _over(tokens, held) for held in waiting]
    steps += 1 if stepping is None else stepping
    if update.clip is not None:
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
        norm = torch.stack(squares).sum(0).sqrt()
        shrink = (update.clip / norm.clamp_min(1e-12)).clamp(max=1.0)
        gradients = [gradient * _over(shrink, gradient) for gradient in gradients]
    for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        own = [weight, *slots[i]]
        before = [] if stepping is None else [value.clone() for value in own]
        update.rule.step(
            weight=weight,
            start=starts[i] if starts else None,
            gradient=gradient,
            slots=slots[i],
            steps=_over(steps, weight),
            lr=update.lr,
            prior=update.prior,
            statistics=statistics[i] if statistics else None,
        )
        if stepping is not None:
            for value, old in zip(own, before, strict=True):
                value.copy_(torch.where(_over(stepping, value), value, old))
            waiting[i].masked_fill_(_over(stepping, weight), 0.0)
        if read[i] is not weight:
            read[i].copy_(weight)
    if stepping is not None:
        tokens_waiting.masked_fill_(stepping, 0)


def _over(values: Tensor, like: Tensor) -> Tensor:
    """[B] as it broadcasts over [B, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))
