"""The steps that a setting takes over its documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.engine.streams import step_shape

if TYPE_CHECKING:
    from tta_bench.evaluation.setting import Setting
    from tta_bench.model.step_shape import StepShape


def step_shapes(setting: Setting, tokens: int) -> list[StepShape]:
    """The steps over a document of so many tokens, one lane's."""
    protocol = setting.protocol
    length = tokens + (protocol.uses_prefix and setting.prefix_id is not None)
    return [step_shape(span, protocol) for span in protocol.plan(length)]
