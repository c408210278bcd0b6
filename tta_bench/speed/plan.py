"""What a measurement of speed consists of, and its defaults for a device or a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.errors import UsageError

if TYPE_CHECKING:
    import torch

    from tta_bench.model.language_model import LanguageModel

WARM_UP_STEPS = 1
"""Steps at the start of each document that are not timed; the warm-up is a step before them."""

SEED = 0
"""Seed for the random tokens, and for PyTorch before each method is built."""

_LAST_LAYERS = 4


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


def default_lanes(device: torch.device) -> int:
    """Documents read side by side: 16 fill a large GPU; on a CPU lanes only share the cores."""
    return 16 if device.type == "cuda" else 1


def default_chunk(device: torch.device) -> int:
    """Tokens in a step of one lane: the protocol's default, or a quarter of it on a slow device."""
    return 1024 if device.type == "cuda" else 256


def default_methods(model: LanguageModel) -> list[str]:
    """The methods measured by default: one of each kind, and subsets of dynamic evaluation.

    `fwl` where weights for this model come with the bench, else its untrained form.
    """
    last = min(_LAST_LAYERS, model.num_layers)
    return [
        "none",
        "fwl" if _has_weights("fwl", model) else "fwl-untrained",
        "neural-cache",
        "dynamic-eval:optimizer=sgd",
        "dynamic-eval",
        "dynamic-eval:subset=mlp",
        f"dynamic-eval:subset=last-{last}",
        "dynamic-eval:subset=lora",
    ]


def _has_weights(name: str, model: LanguageModel) -> bool:
    from tta_bench.contract.registry import load

    method = load(name)
    try:
        return bool(method.artifacts(method.Params(), model))
    except UsageError:
        return False


def check_length(model: LanguageModel, chunk: int) -> None:
    """Raises UsageError if the model cannot read a chunk at once."""
    most = model.max_positions
    if most is not None and chunk > most:
        raise UsageError(
            f"a chunk of {chunk} tokens is more than the {most} positions of {model.name}; "
            "lower --chunk."
        )
