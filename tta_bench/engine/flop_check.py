"""Counts a method's step on synthetic tokens and compares the count with the method's formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tta_bench.cost.counter import Counted, count_flops
from tta_bench.cost.flop_report import FlopReport, mean_flops
from tta_bench.engine.step import synthetic_steps

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.step_shape import StepShape


def measure_step(method: Method, shape: StepShape, seed: int = 0, steps: int = 1) -> Counted:
    """The counted FLOPs of one lane's step: the mean of the first `steps` steps of a stream.

    All lanes of `method` read synthetic windows of `shape`; it is reset before and after. More
    than one step matters to a method that does not do the same work in each.
    """
    take_step = synthetic_steps(method, shape, seed)

    def run() -> None:
        for _ in range(steps):
            take_step()

    _reset(method)
    try:
        counted = count_flops(run)
    finally:
        _reset(method)
    return counted._replace(flops=counted.flops / (steps * method.lanes))


def check_flops(method: Method, shape: StepShape, name: str, steps: int = 1) -> FlopReport:
    """Counts one lane's step of `method`, called `name` in the report, and asks its formula.

    A check must not end the run it checks: an error while counting (an operation that the counter
    refuses, such as `scan`; too little memory) is told in the report.
    """
    counted: Counted | None = None
    reason = ""
    try:
        counted = measure_step(method, shape, steps=steps)
    except Exception as error:
        first_line = (str(error).strip() or "no reason given").splitlines()[0]
        reason = f"{type(error).__name__}: {first_line}"
    return FlopReport(
        method=name,
        shape=shape,
        analytic=_analytic(method, shape, steps),
        counted=counted.flops if counted else None,
        invisible=method.invisible_flops(shape),
        blind_ops=counted.blind_ops if counted else (),
        uncounted_because=reason,
    )


def flops_per_token(
    method: Method, report: FlopReport, steps: Mapping[StepShape, int]
) -> float | None:
    """FLOPs per scored token over many steps; None if neither formula nor counter gave a figure.

    A method without a formula costs what its model costs in each step, and what was counted
    beyond the model in the step of the report.

    Args:
        method: the method that took the steps.
        report: its check, at the widest step.
        steps: how often a lane took a step of each shape.
    """
    if not steps or report.flops is None:
        return None
    formula, beyond = method.flops, 0.0
    if report.analytic is None:
        formula = method.cost.forward
        beyond = (report.flops - formula(report.shape)) / report.shape.scored
    return beyond + mean_flops(formula, steps)


def _analytic(method: Method, shape: StepShape, steps: int) -> float | None:
    """The mean of the formula over the first steps of a stream, as many as are counted."""
    said = [method.flops(shape._replace(start=i * shape.scored)) for i in range(steps)]
    return None if None in said else sum(value or 0.0 for value in said) / steps


def _reset(method: Method) -> None:
    for lane in range(method.lanes):
        method.reset(lane)
