"""A step captured once as a CUDA graph, and replayed: no kernel waits for Python to launch it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.model.window import Window

if TYPE_CHECKING:
    from tta_bench.engine.streams import Step

WARM_UP = 2
"""Steps before the capture: libraries set themselves up in the first, autograd in the second."""


class StepGraph:
    """Replays `work` on steps of one shape.

    What `work` changes (a method's state) must be changed in place: a replay writes to the very
    memory that the capture saw.

    Args:
        work: maps a window and its targets to losses [B, C], without waiting for the device.
        step: any step of the shape to come.
    """

    def __init__(self, work: Callable[[Window, Tensor], Tensor], step: Step):
        self._inputs = [value.clone() for value in _tensors(step)]
        ids, lengths, scored, targets = self._inputs

        def run() -> Tensor:
            # A window of its own each time: what it caches would lie outside the graph.
            return work(Window(ids, lengths, scored, step.window.chunk_size), targets)

        side = torch.cuda.Stream(ids.device)
        side.wait_stream(torch.cuda.current_stream(ids.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream(ids.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses = run()

    def __call__(self, step: Step) -> Tensor:
        """The losses of a step, overwritten by the next one."""
        for own, given in zip(self._inputs, _tensors(step), strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._losses


def _tensors(step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = step.window
    return window.input_ids, window.lengths, window.scored, step.targets
