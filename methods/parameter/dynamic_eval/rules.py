"""Update rules of dynamic evaluation, each a function of one tensor [B, ...], all lanes at once.

`rms18`: Krause et al. 2018 (arXiv 1709.07432), `rms19`: Krause et al. 2019 (arXiv 1904.08378),
`rms-gpt2`: the authors' GPT-2 program of 2019. Their statistics of squared gradients come from
text read offline, never from the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim.adam import adam

BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


@dataclass(frozen=True)
class Rule:
    """One update rule: `step` changes `weight` in place.

    Attributes:
        step: called with weight, start (theta0), gradient, slots, scales, lr, prior and statistics.
        lr: default learning rate.
        prior: default strength of the pull to theta0; None if the rule has none.
        slots: names of the tensors it keeps beside each weight.
        needs_statistics: whether it divides by offline gradient statistics.
        scales: of the numbers of each lane's step [B], 1, 2, ..., what the rule needs of them: a
            list of [B], computed once a step. The rule sees them as they broadcast over [B, ...].
    """

    step: Callable[..., None]
    lr: float
    prior: float | None = None
    slots: tuple[str, ...] = ()
    needs_statistics: bool = False
    scales: Callable[[Tensor], list[Tensor]] = lambda steps: []
    prepare_statistics: Callable[[dict[str, Tensor], int], dict[str, Tensor]] = (
        lambda squares, blocks: squares
    )


def _sgd(weight: Tensor, gradient: Tensor, lr: float, **_: object) -> None:
    weight.sub_(lr * gradient)


def _heavy_ball(
    weight: Tensor, gradient: Tensor, slots: list[Tensor], lr: float, momentum: float, **_: object
) -> None:
    """v <- momentum v + g, theta <- theta - lr v, as in torch.optim.SGD."""
    (velocity,) = slots
    velocity.mul_(momentum).add_(gradient)
    weight.sub_(lr * velocity)


def _adam(
    weight: Tensor,
    gradient: Tensor,
    slots: list[Tensor],
    scales: list[Tensor],
    lr: float,
    **_: object,
) -> None:
    """Adam (Kingma and Ba 2015), bias-corrected."""
    first, second = slots
    unbias_first, unbias_second, steps = scales
    if weight.device.type == "cpu" and not torch.compiler.is_compiling():
        _fused_adam(weight, gradient, first, second, steps, lr)
        return
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    scale = second.sqrt().mul_(unbias_second).add_(ADAM_EPS)
    weight.addcdiv_(first * unbias_first, scale, value=-lr)


def _fused_adam(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, steps: Tensor, lr: float
) -> None:
    """The same by PyTorch's own kernel, lane by lane: one pass over memory without a compiler."""
    for lane, done in enumerate((steps.flatten() - 1).float()):
        adam(
            [weight[lane]],
            [gradient[lane].contiguous()],
            [first[lane]],
            [second[lane]],
            [],
            [done.clone()],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=0.0,
            eps=ADAM_EPS,
            maximize=False,
        )


def _unbias(steps: Tensor) -> list[Tensor]:
    """What undoes the bias of Adam's moments (first, and root of the second), and the steps.

    In float64: near one, float32 has few digits left of 1 - beta^steps.
    """
    first, second = ((1 - beta ** steps.double()) for beta in BETAS)
    return [first.reciprocal().float(), second.rsqrt().float(), steps]


def _adamw(weight: Tensor, start: Tensor, lr: float, prior: float, **rest: object) -> None:
    """AdamW whose decoupled decay (Loshchilov and Hutter 2019) pulls to theta0, not to zero."""
    weight.sub_(lr * prior * (weight - start))
    _adam(weight=weight, lr=lr, **rest)  # type: ignore[arg-type]


def _rms18(
    weight: Tensor,
    start: Tensor,
    gradient: Tensor,
    lr: float,
    prior: float,
    statistics: Tensor,
    **_: object,
) -> None:
    """lambda D (theta0 - theta) - lr g / (MS + eps), D = min(MS / mean MS, 1 / lambda)."""
    root, relative = statistics[0], statistics[1]
    decay = relative.clamp(max=1 / prior) if prior > 0 else relative
    weight.add_(prior * decay * (start - weight) - lr * gradient / (root + 2e-5))


def _rms19(
    weight: Tensor,
    start: Tensor,
    gradient: Tensor,
    lr: float,
    prior: float,
    statistics: Tensor,
    **_: object,
) -> None:
    """- lr g / (sqrt(SS) + eps) - prior sqrt(SS) (theta - theta0)."""
    root = statistics.sqrt()
    weight.sub_(lr * gradient / (root + 1e-5) + prior * root * (weight - start))


def _rms_gpt2(weight: Tensor, gradient: Tensor, lr: float, statistics: Tensor, **_: object) -> None:
    """- lr g / (SS + eps), without a root and without decay."""
    weight.sub_(lr * gradient / (statistics + 1e-3))


def _rms18_statistics(squares: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """Stacks MS = sqrt(mean g^2) and MS / (mean over tensors of mean MS)."""
    roots = {name: (square / blocks).sqrt() for name, square in squares.items()}
    mean = torch.stack([root.mean() for root in roots.values()]).mean()
    return {name: torch.stack([root, root / mean]) for name, root in roots.items()}


RULES = {
    "sgd": Rule(_sgd, lr=3e-3),
    "adam": Rule(_adam, lr=1e-4, slots=("first", "second"), scales=_unbias),
    "adamw": Rule(_adamw, lr=1e-4, prior=1e-2, slots=("first", "second"), scales=_unbias),
    "rms18": Rule(
        _rms18,
        lr=5e-5,
        prior=2e-3,
        needs_statistics=True,
        prepare_statistics=_rms18_statistics,
    ),
    "rms19": Rule(_rms19, lr=2e-6, prior=0.0, needs_statistics=True),
    "rms-gpt2": Rule(_rms_gpt2, lr=2e-5, needs_statistics=True),
}


def rule_of(optimizer: str, momentum: float) -> Rule:
    """The rule of that name; `sgd` with a momentum above 0 keeps a velocity."""
    rule = RULES[optimizer]
    if not momentum:
        return rule
    return Rule(partial(_heavy_ball, momentum=momentum), lr=rule.lr, slots=("velocity",))
