"""What methods are compared with: the transformers model, used in the usual way without the bench.

`forward` reads a batch of chunks to logits and nothing else. `eager_loop` is dynamic evaluation as
it is usually written: one document, `loss.backward()`, an optimiser of torch.optim over all weights
in the model's dtype.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.cost.memory import PeakMemory
from tta_bench.cost.model_flops import ModelCost
from tta_bench.cost.timing import StepTimer, synchronise
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.step_shape import StepShape
from tta_bench.speed.documents import synthetic_tokens
from tta_bench.speed.plan import WARM_UP_STEPS, SpeedPlan
from tta_bench.speed.row import Measured

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
_LEARNING_RATE = 1e-5
"""Small, so that losses of random tokens stay finite; no time depends on it."""


def forward(model: LanguageModel, plan: SpeedPlan, lanes: int, compiled: bool) -> Measured:
    """Reads batches of chunks to logits [lanes, chunk, V] in inference mode, and nothing else."""
    chunks = _chunks(model, plan, lanes)
    started = time.perf_counter()
    net: Callable[..., object] = torch.compile(model.net) if compiled else model.net
    set_up = time.perf_counter() - started
    shape = StepShape(plan.chunk, plan.chunk, 0)

    def step(ids: Tensor, targets: Tensor) -> None:
        net(input_ids=ids, use_cache=False)

    with torch.inference_mode():
        return _timed(step, chunks, plan, model, set_up, ModelCost(model).forward(shape))


def eager_loop(model: LanguageModel, plan: SpeedPlan, optimizer: str) -> Measured:
    """Dynamic evaluation of one document, the usual way.

    It changes the model's own weights, as such loops do, and they are put back afterwards from a
    copy on the CPU: a second copy on the device would keep large models from fitting.
    """
    net = model.net
    shape = StepShape(plan.chunk, plan.chunk, 0)
    names = [name for name, _ in net.named_parameters()]
    cost = ModelCost(model)
    flops = cost.forward(shape) + cost.backward(shape, names)
    with _borrowed(net):
        started = time.perf_counter()
        update = OPTIMIZERS[optimizer](net.parameters(), lr=_LEARNING_RATE)
        set_up = time.perf_counter() - started

        def step(ids: Tensor, targets: Tensor) -> None:
            logits = net(input_ids=ids, use_cache=False).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            loss.backward()
            update.step()
            update.zero_grad()

        return _timed(step, _chunks(model, plan, 1), plan, model, set_up, flops)


@contextmanager
def _borrowed(net: nn.Module) -> Iterator[None]:
    """Lets weights change and have gradients while inside, and puts them back afterwards."""
    kept = {name: value.detach().to("cpu", copy=True) for name, value in net.named_parameters()}
    net.requires_grad_(True)
    try:
        yield
    finally:
        net.requires_grad_(False)
        with torch.no_grad():
            for name, value in net.named_parameters():
                value.grad = None
                value.copy_(kept[name])


def _chunks(model: LanguageModel, plan: SpeedPlan, lanes: int) -> list[tuple[Tensor, Tensor]]:
    """(ids, targets) of each step of the methods' documents, both [lanes, chunk] on the device."""
    steps = WARM_UP_STEPS + plan.steps
    tokens = torch.from_numpy(synthetic_tokens(plan, lanes, steps, model.readable_ids))
    tokens = tokens.to(model.device)
    inputs = tokens[:, :-1].split(plan.chunk, dim=1)
    targets = tokens[:, 1:].split(plan.chunk, dim=1)
    return [(i.contiguous(), t.contiguous()) for i, t in zip(inputs, targets, strict=True)]


def _timed(
    step: Callable[[Tensor, Tensor], None],
    chunks: list[tuple[Tensor, Tensor]],
    plan: SpeedPlan,
    model: LanguageModel,
    set_up_seconds: float,
    flops: float,
) -> Measured:
    """Takes the steps that a method takes: a warm-up, then those of the documents."""
    started = time.perf_counter()
    step(*chunks[0])
    synchronise(model.device)
    warm_up = time.perf_counter() - started
    memory, timer = PeakMemory(model.device, model.spread_over), StepTimer(model.device)
    memory.start()
    for ids, targets in chunks:
        with timer.step(ids.numel()):
            step(ids, targets)
    return Measured(
        step_seconds=timer.seconds[WARM_UP_STEPS:],
        flops_per_token=flops / plan.chunk,
        peak=memory.stop(),
        set_up_seconds=set_up_seconds,
        warm_up_seconds=warm_up,
    )
