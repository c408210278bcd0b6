"""What a method says that it costs, against what it was seen to cost on the real model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tta_bench.auditing.finding import Finding

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.step_shape import StepShape

MOST = 1.5
"""The most that a cost may exceed what is declared: further off, a table of costs misleads."""

SLACK_BYTES = 2**20
"""Bytes of small objects that no one declares."""


def flops_over(
    method: Method, counted: Sequence[tuple[StepShape, float]], first: float | None
) -> str | None:
    """Whether counted steps cost more than is declared; None if not, else a phrase.

    Args:
        method: the method.
        counted: the shapes of steps of one lane and the FLOPs that the counter saw in them.
        first: the FLOPs of a first full step, which stand in the table where there is no formula.
    """
    told = total = 0.0
    for shape, seen in counted:
        declared = method.flops(shape)
        seen += 0.0 if declared is None else method.invisible_flops(shape)
        declared = first if declared is None else declared
        if declared is None:
            return None
        told, total = told + declared, total + seen
        if seen > 2 * MOST * declared:
            place = f"the step at token {shape.start}"
            return f"{place} took {seen:.4g} FLOPs, where {declared:.4g} are declared"
    if total > MOST * told:
        return f"{len(counted)} steps took {total:.4g} FLOPs, where {told:.4g} are declared"
    return None


def state_over(declared: tuple[int, int], held: tuple[int, int]) -> str | None:
    """Whether more bytes grew over a document than the declared state did.

    Args:
        declared: `state_bytes()` at the start and at the end of one lane's document.
        held: bytes that the method held anywhere at the same moments.
    """
    said, grown = declared[1] - declared[0], held[1] - held[0]
    if grown > MOST * max(said, 0) + SLACK_BYTES:
        return (
            f"it holds {grown:,} bytes more at the end of a document, of which it declares {said:,}"
        )
    return None


def lane_over(declared: int, held: int) -> str | None:
    """Whether a lane takes more bytes than `state_bytes()` declares for it.

    Args:
        declared: what a lane declares.
        held: bytes that the method holds, anywhere, with two lanes beyond those with one.
    """
    if held > MOST * declared + SLACK_BYTES / 4:
        return f"a lane takes {held:,} bytes, of which it declares {declared:,}"
    return None


def cost_finding(phrases: Sequence[str | None]) -> Finding:
    """One finding of all that was looked at."""
    wrong = [phrase for phrase in phrases if phrase is not None]
    if wrong:
        return Finding("costs", "fail", float(len(wrong)), f"{'; '.join(wrong[:2])}.")
    sentence = "declared costs cover what early and late steps, set-up and resets took."
    return Finding("costs", "pass", None, sentence)
