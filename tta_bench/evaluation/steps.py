"""The steps that a setting takes over its documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.model.step_shape import StepShape

if TYPE_CHECKING:
    from tta_bench.evaluation.setting import Setting


def step_shapes(setting: Setting, tokens: int) -> list[StepShape]:
    """The steps over a document of so many tokens, one lane's."""
    protocol = setting.protocol
    length = tokens + (protocol.uses_prefix and setting.prefix_id is not None)
    cached = protocol.context if protocol.context_mode == "cache" else 0
    return [
        StepShape(
            span.stop - span.start,
            span.scored,
            min(cached, span.start),
            span.stop - span.scored,
        )
        for span in protocol.plan(length)
    ]
