"""A method with one cheap parameter and a best value: the model's logits times a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from tta_bench import Method, StepShape, Window, register


@register("scaled")
class Scaled(Method):
    """The model at another temperature; best near 1."""

    family = "output"
    off = {"scale": 1.0}  # noqa: RUF012

    @dataclass
    class Params:
        """Hyper-parameters."""

        scale: float = field(default=1.0, metadata={"help": "what logits are multiplied with"})
        most: float = field(default=100.0, metadata={"help": "what scale may be at most"})

        a: Literal["x", "y"] = "x"  # three words that change nothing
        b: Literal["x", "y"] = "x"
        c: Literal["x", "y"] = "x"

        def __post_init__(self) -> None:
            if not 0 < self.scale <= self.most:
                raise ValueError(f"scale must be above 0 and at most {self.most:g}.")

    def score(self, window: Window) -> Tensor:
        below = self.below.score(window)
        return below.rows(0, window.chunk_size) * self.params.scale

    def flops(self, shape: StepShape) -> float | None:
        return self.below.flops(shape)
