"""The device and the dtype that a model runs with, from the names that the command line takes."""

from __future__ import annotations

import torch

from tta_bench.errors import UsageError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is cuda if there is one, else mps, else cpu.

    Raises:
        UsageError: the name is not a device, or this machine does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is not a device; use auto, cuda, mps or cpu.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available here; use --device cpu or auto.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("no MPS device is available here; use --device cpu or auto.")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; `auto` is bfloat16 on cuda and float32 elsewhere.

    Raises:
        UsageError: the name is not a dtype of `DTYPES`.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UsageError(f"'{name}' is not a dtype; use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]
