"""A step captured once as a CUDA graph and replayed: no kernel waits for Python to launch it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.model.scores import Scored
from tta_bench.model.window import Window

if TYPE_CHECKING:
    from tta_bench.engine.step import Step

WARM_UP = 2
"""Steps before the capture: libraries set themselves up in the first, autograd in the second."""


class StepGraph:
    """Replays a step on windows of one shape.

    What the step changes (a method's state) must be changed in place: a replay writes to the very
    memory that the capture saw. The copies that a step hands to the method are captured too.

    Args:
        step: the step; it must not wait for the device.
        window: any window of the shape to come.
        targets: its targets.
    """

    def __init__(self, step: Step, window: Window, targets: Tensor):
        self._inputs = [value.clone() for value in _tensors(window, targets)]
        ids, lengths, scored, own_targets = self._inputs

        def run() -> Scored:
            # A window of its own each time: what it caches would lie outside the graph.
            return step(Window(ids, lengths, scored, window.chunk_size), lambda: own_targets)

        side = torch.cuda.Stream(ids.device)
        side.wait_stream(torch.cuda.current_stream(ids.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream(ids.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as the compiler's, may call the driver meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._scored = run()

    def __call__(self, window: Window, read_targets: Callable[[], Tensor]) -> Scored:
        """What a step gives, overwritten by the next one; the arguments are those of `Step`."""
        for own, given in zip(self._inputs, _tensors(window, read_targets()), strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._scored


def _tensors(window: Window, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return window.input_ids, window.lengths, window.scored, targets
