"""What a method says that it costs: figures that no cost can be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.step_shape import StepShape


def declared_costs(method: Method, shape: StepShape) -> str | None:
    """What is impossible in a method's own figures for a step of this shape; None if nothing is."""
    flops, invisible = method.flops(shape), method.invisible_flops(shape)
    figures = {
        "flops()": flops,
        "invisible_flops()": invisible,
        "offline_flops": method.offline_flops,
        "offline_seconds": method.offline_seconds,
        "state_bytes()": method.state_bytes(),
    }
    for name, figure in figures.items():
        if figure is not None and (not math.isfinite(figure) or figure < 0):
            return f"{name} says {figure:.4g}, which no cost can be"
    if flops is not None and flops <= 0:
        return "flops() says 0, and a step that scores a chunk costs something"
    return None
