"""The size of one step, which determines its FLOPs."""

from __future__ import annotations

from typing import NamedTuple


class StepShape(NamedTuple):
    """The size of one step of one lane, for FLOP formulas."""

    inputs: int
    """Number of tokens that the model reads."""
    scored: int
    """Number of predictions scored, at the last of the inputs."""
    past: int
    """Number of cached keys from before the window."""
    start: int = 0
    """Number of tokens in the stream before the first scored one, for methods whose steps grow."""
