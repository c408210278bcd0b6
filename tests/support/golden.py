"""Numbers of other implementations that ours must give: files by system, here or elsewhere.

`TTA_BENCH_GOLDEN` names another folder of the same form (`SYSTEM/FILE`). A test runs every file of
its system, whatever its sizes; a system that such a folder lacks is skipped. Here none may lack.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

OWN = Path(__file__).parents[1] / "golden"
FOLDER = Path(os.environ.get("TTA_BENCH_GOLDEN") or OWN)


def golden(system: str, pattern: str = "*.npz") -> list:
    """The files of a system that match, as parameters of a test, named by their stems."""
    found = sorted((FOLDER / system).glob(pattern))
    if found:
        return [pytest.param(path, id=path.stem) for path in found]
    lack = f"{FOLDER} has no {system}/{pattern}"
    if FOLDER.resolve() == OWN.resolve():
        raise FileNotFoundError(lack)
    return [pytest.param(None, id="none", marks=pytest.mark.skip(reason=lack))]


def cases(path):
    """The cases of a file, each a dict of float64 tensors by name."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key, value in arrays.items():
            case, slash, name = key.partition("/")
            if slash and value.dtype == np.float64:
                found.setdefault(case, {})[name] = torch.from_numpy(value)
    return found


def checked(arrays, names, outputs):
    """Compares outputs, states and the gradients of the fixture's loss."""
    loss = 0.0
    for name, value in outputs.items():
        expected = arrays[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-9)
        weight = "loss_weight" if name == "out" else f"loss_weight_{name}"
        if weight in arrays:
            loss = loss + (value * arrays[weight]).sum()
    inputs = {name: arrays[name] for name in names if f"grad/{name}" in arrays}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    for name, gradient in zip(inputs, gradients, strict=True):
        expected = arrays[f"grad/{name}"]
        torch.testing.assert_close(
            gradient, expected, rtol=0, atol=1e-7 * float(expected.abs().max())
        )


def leaves(arrays, names):
    """The inputs of a case by name, those of them that it has, ready to be differentiated."""
    return {name: arrays[name].requires_grad_() for name in names if name in arrays}
