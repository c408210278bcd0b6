"""Whether a run is compiled: `--compile off|on|auto`."""

from __future__ import annotations

import torch

from tta_bench.errors import UsageError

COMPILE = ("auto", "on", "off")

EARNS_STEPS = 300
"""The number of steps from which `auto` compiles. Compiling takes about a minute the first time
(kernels are kept between runs); a compiled step of a small model saves 0.1 to 0.2 seconds."""


def compiles(asked: str, device: torch.device, steps: float) -> bool:
    """Whether to compile a run of so many steps.

    `auto` depends on the kind of device, the documents and the lanes, never on a clock: in bfloat16
    compiled code rounds differently, and repeating a run should round in the same way.

    Raises:
        UsageError: `asked` is none of `COMPILE`.
    """
    if asked not in COMPILE:
        raise UsageError(f"--compile must be one of {', '.join(COMPILE)}, not '{asked}'.")
    if asked == "auto":
        return device.type == "cuda" and steps >= EARNS_STEPS
    return asked == "on"
