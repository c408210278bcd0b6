"""One step of a method on synthetic tokens, counted and held against the method's own formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tta_bench.cost.counter import Counted, count_flops
from tta_bench.model.scores import as_scores, token_nll
from tta_bench.model.synthetic import SyntheticStream

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.step_shape import StepShape

TOLERANCE = 0.02
"""Largest relative difference between formula and counter that is called agreement."""


def take_step(method: Method, stream: SyntheticStream) -> None:
    """Score, loss and adapt of the stream's next window, in all lanes."""
    window, targets = stream.window()
    with torch.set_grad_enabled(method.gradients):
        wanted = (*targets.shape, method.model.vocab_size)
        scores = as_scores(method.score(window), wanted)
        nll = token_nll(scores, targets, window.mask, method.gradients)
        method.adapt(window, targets, nll)
    stream.advance()


def measure_step(method: Method, shape: StepShape, seed: int = 0, steps: int = 1) -> Counted:
    """Counts one lane's score, loss and adapt in one step, the mean of the first `steps` steps.

    All lanes of `method` read synthetic windows of `shape`; it is reset before and after. More
    than one step matters to a method that does not do the same work in each.
    """
    stream = SyntheticStream(method.model, shape, method.lanes, seed)

    def run() -> None:
        for _ in range(steps):
            take_step(method, stream)

    _reset(method)
    try:
        counted = count_flops(run)
    finally:
        _reset(method)
    return counted._replace(flops=counted.flops / (steps * method.lanes))


def _reset(method: Method) -> None:
    for lane in range(method.lanes):
        method.reset(lane)


@dataclass(frozen=True)
class FlopReport:
    """Formula against counter, for one lane's step.

    Attributes:
        method: the method's name, for the warnings.
        shape: the step.
        analytic: what `flops` says; None if the method has no formula.
        counted: what the counter saw; None if it could not run.
        invisible: what the method declares the counter cannot see.
        blind_ops: operations used that the counter cannot see.
        failure: why the counter could not run, if it could not.
    """

    method: str
    shape: StepShape
    analytic: float | None
    counted: float | None
    invisible: float
    blind_ops: tuple[str, ...] = ()
    failure: str = ""

    @property
    def seen(self) -> float | None:
        """Counted and declared together."""
        return None if self.counted is None else self.counted + self.invisible

    @property
    def flops(self) -> float | None:
        """The figure to report: the formula's, else `seen`."""
        return self.seen if self.analytic is None else self.analytic

    @property
    def ratio(self) -> float | None:
        """`seen` / formula; None if either is missing."""
        if self.seen is None or not self.analytic:
            return None
        return self.seen / self.analytic

    @property
    def agrees(self) -> bool | None:
        """Whether the two are within `TOLERANCE`; None if either is missing."""
        return None if self.ratio is None else abs(self.ratio - 1) <= TOLERANCE

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the author should know, a sentence each."""
        found = []
        if self.failure:
            found.append(f"the FLOPs of {self.method} could not be counted ({self.failure}).")
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


def _analytic(method: Method, shape: StepShape, steps: int) -> float | None:
    """The formula's mean over the steps that are counted, from a stream's first."""
    said = [method.flops(shape._replace(start=i * shape.scored)) for i in range(steps)]
    return None if None in said else sum(value or 0.0 for value in said) / steps


def check_flops(method: Method, shape: StepShape, name: str, steps: int = 1) -> FlopReport:
    """Measures one lane's step of `method` (called `name`) beside its own formula.

    A check must not end the run it checks: what goes wrong while counting (operations that the
    counter refuses, such as `scan`; too little memory) is told in the report.
    """
    counted: Counted | None = None
    failure = ""
    try:
        counted = measure_step(method, shape, steps=steps)
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        failure = f"{type(error).__name__}: {reason}"
    return FlopReport(
        method=name,
        shape=shape,
        analytic=_analytic(method, shape, steps),
        counted=counted.flops if counted else None,
        invisible=method.invisible_flops(shape),
        blind_ops=counted.blind_ops if counted else (),
        failure=failure,
    )
