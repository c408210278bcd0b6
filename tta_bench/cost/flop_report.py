"""The FLOPs of a step by a method's own formula, beside what was counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tta_bench.model.step_shape import StepShape

TOLERANCE = 0.02
"""Largest relative difference between formula and counter that counts as agreement."""


@dataclass(frozen=True)
class FlopReport:
    """Formula against counter, for one lane's step.

    Attributes:
        method: the method's name, for the warnings.
        shape: the size of the step.
        analytic: the figure of the method's formula; None if it has none.
        counted: what the counter saw; None if it could not run.
        invisible: the part that, as the method declares, the counter cannot see.
        blind_ops: operations in use that the counter cannot see.
        uncounted_because: why the counter could not run; empty if it did.
    """

    method: str
    shape: StepShape
    analytic: float | None
    counted: float | None
    invisible: float
    blind_ops: tuple[str, ...] = ()
    uncounted_because: str = ""

    @property
    def seen(self) -> float | None:
        """What was counted and what is declared as invisible, together."""
        return None if self.counted is None else self.counted + self.invisible

    @property
    def flops(self) -> float | None:
        """The figure to report: that of the formula, otherwise `seen`."""
        return self.seen if self.analytic is None else self.analytic

    @property
    def ratio(self) -> float | None:
        """`seen` over `analytic`; None if either is missing."""
        if self.seen is None or not self.analytic:
            return None
        return self.seen / self.analytic

    @property
    def agrees(self) -> bool | None:
        """Whether the two figures agree within `TOLERANCE`; None if either is missing."""
        return None if self.ratio is None else abs(self.ratio - 1) <= TOLERANCE

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the author of the method should know, one sentence each."""
        found = []
        if self.uncounted_because:
            found.append(
                f"the FLOPs of {self.method} could not be counted ({self.uncounted_because})."
            )
        if self.blind_ops and not self.invisible:
            found.append(
                f"{self.method} uses {', '.join(self.blind_ops)}, whose FLOPs PyTorch's counter "
                "cannot see: add them to flops() and return them from invisible_flops()."
            )
        if self.agrees is False:
            found.append(
                f"{self.method}: flops() says {self.analytic:.4g} FLOPs for {tuple(self.shape)} "
                f"(inputs, scored, past) but {self.seen:.4g} were counted "
                "(invisible_flops() included): correct the formula."
            )
        return tuple(found)


def mean_flops(
    formula: Callable[[StepShape], float | None], steps: Mapping[StepShape, int]
) -> float:
    """FLOPs per scored token over steps, of which there is at least one.

    Args:
        formula: FLOPs of a step; None counts as nothing.
        steps: how often a lane takes a step of each shape.
    """
    tokens = sum(shape.scored * times for shape, times in steps.items())
    return sum((formula(shape) or 0.0) * times for shape, times in steps.items()) / tokens
