"""The engine's step, one of which is taken under the FLOP counter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from tta_bench.cost.counter import count_flops
from tta_bench.engine.step import Step
from tta_bench.model.scores import Scored

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.window import Window


class CountedStep(Step):
    """Counts the FLOPs of one step: under the counter some operations round otherwise.

    Attributes:
        number: the number of the next step.
        flops: FLOPs of the step that was counted; None before it.
    """

    def __init__(self, method: Method, counted: int):
        super().__init__(method)
        self.counted = counted
        self.number = 0
        self.flops: float | None = None

    def __call__(self, window: Window, read_targets: Callable[[], Tensor]) -> Scored:
        take, number = super().__call__, self.number
        self.number += 1
        if number != self.counted:
            return take(window, read_targets)
        taken: list[Scored] = []
        self.flops = count_flops(lambda: taken.append(take(window, read_targets))).flops
        return taken[0]
