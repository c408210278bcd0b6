"""What a measurement of speed consists of, and its defaults for a device or a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.engine.protocol import Protocol
from tta_bench.model.step_shape import StepShape

if TYPE_CHECKING:
    import torch


WARM_UP_STEPS = 1
"""Steps at the start of each document that are not timed; the warm-up is a step before them."""

SEED = 0
"""Seed for the random tokens, and for PyTorch before each method is built."""


@dataclass(frozen=True)
class SpeedPlan:
    """The settings that all rows of a measurement share.

    Attributes:
        lanes: documents read side by side, where memory holds them.
        chunk: tokens scored in a step of one lane.
        steps: steps timed.
        prefix_id: the token before each document, or None.
        compile: whether methods run compiled.
    """

    lanes: int
    chunk: int
    steps: int
    prefix_id: int | None
    compile: bool

    @property
    def shape(self) -> StepShape:
        """The size of every step."""
        return StepShape(self.chunk, self.chunk, 0)

    @property
    def tokens(self) -> int:
        """Tokens that are read of each document."""
        return (WARM_UP_STEPS + self.steps) * self.chunk


def default_lanes(device: torch.device) -> int:
    """Documents read side by side: 16 fill a large GPU; on a CPU lanes only share the cores."""
    return 16 if device.type == "cuda" else 1


def default_chunk(device: torch.device) -> int:
    """Tokens in a step of one lane: the protocol's default, or as many as keep a GPU busy."""
    return 1024 if device.type == "cuda" else Protocol.chunk
