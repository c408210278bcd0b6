"""Whether a run is compiled: `--compile off|on|auto`."""

from __future__ import annotations

import torch

from tta_bench.errors import UsageError

COMPILE = ("auto", "on", "off")

EARNS_STEPS = 300
"""Steps from which on `auto` compiles. Compiling takes about a minute the first time (kernels are
kept between runs), and a compiled step of a small model is a tenth of a second or two faster."""


def compiles(asked: str, device: torch.device, steps: float) -> bool:
    """Whether to compile a run of so many steps.

    `auto` depends on the kind of device, the documents and the lanes, never on a clock: in bfloat16
    compiled code rounds differently, and a run should round like its repetition.

    Raises:
        UsageError: `asked` is none of `COMPILE`.
    """
    if asked not in COMPILE:
        raise UsageError(f"--compile must be one of {', '.join(COMPILE)}, not '{asked}'.")
    if asked == "auto":
        return device.type == "cuda" and steps >= EARNS_STEPS
    return asked == "on"
