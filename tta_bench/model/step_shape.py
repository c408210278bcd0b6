"""The size of one step, which FLOP formulas are functions of."""

from __future__ import annotations

from typing import NamedTuple


class StepShape(NamedTuple):
    """One lane's step, for FLOP formulas."""

    inputs: int
    """Tokens the model reads."""
    scored: int
    """Predictions scored (the last of the inputs)."""
    past: int
    """Keys carried in from before the window."""
    start: int = 0
    """Tokens of the stream before the first one scored, for methods whose steps grow."""
