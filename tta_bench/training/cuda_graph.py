"""A training step, forward and backward, captured once as a CUDA graph and replayed.

A step of a small model is thousands of small kernels. Launched one by one they take the time that
Python needs for them, however many lanes there are; replayed they take the GPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

WARM_UP = 3
"""Steps before the capture: compiled parts compile, libraries and autograd set themselves up."""


class TrainingGraph:
    """Replays a step on batches of one shape; the loss that it gives has gradients as any other.

    What the step changes (the lanes' state) must be changed in place: a replay writes to the very
    memory that the capture saw. Warm-up steps change it, the capture does not.

    Args:
        step: takes a batch, gives its loss [] and a number [] that is no part of the gradient. It
            must not wait for the device.
        batch: tensors of any batch of the shape to come, on the GPU.
        trained: the parameters that gradients are wanted of; those that the loss does not depend on
            get none.

    Raises:
        RuntimeError: the step waits for the device, or memory runs out.
    """

    def __init__(
        self,
        step: Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]],
        batch: Mapping[str, Tensor],
        trained: Sequence[Parameter],
    ) -> None:
        self._batch = {name: value.clone() for name, value in batch.items()}

        def run() -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
            # Weights that autocast narrows and keeps would lie outside of the graph.
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                loss, other = step(self._batch)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            return loss.detach(), other.detach(), gradients

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as NCCL's, may call the driver meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._loss, self._other, gradients = run()
        found = zip(trained, gradients, strict=True)
        self._trained = [(value, own) for value, own in found if own is not None]

    def __call__(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the step gives of a batch."""
        for name, own in self._batch.items():
            own.copy_(batch[name], non_blocking=True)
        values, gradients = zip(*self._trained, strict=True)
        loss = _Replay.apply(self._replay, gradients, *values)
        return loss, self._other.clone()

    def _replay(self) -> Tensor:
        self._graph.replay()
        return self._loss


class _Replay(torch.autograd.Function):
    """The loss of a replay, as a function of the parameters whose gradients it left behind."""

    @staticmethod
    def forward(
        ctx: Any, replay: Callable[[], Tensor], gradients: Sequence[Tensor], *values: Tensor
    ) -> Tensor:
        ctx.gradients = gradients
        return replay().clone()

    @staticmethod
    def backward(ctx: Any, *scale: Tensor) -> Any:
        # Products of their own: the next replay overwrites what the graph holds.
        return None, None, *(gradient * scale[0] for gradient in ctx.gradients)
