"""What a method could leave behind in the process: settings of PyTorch, and functions replaced."""

from __future__ import annotations

import sys
import threading
from types import FunctionType, ModuleType
from typing import Any

import torch

_WATCHED = ("tta_bench.engine", "tta_bench.model", "tta_bench.cost", "tta_bench.contract")
"""Rooms whose functions make the numbers."""

_LIBRARY: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        torch.nn.functional,
        (
            "cross_entropy",
            "log_softmax",
            "softmax",
            "nll_loss",
            "embedding",
            "linear",
            "layer_norm",
            "rms_norm",
            "scaled_dot_product_attention",
            "silu",
            "gelu",
            "relu",
        ),
    ),
    (
        torch,
        ("softmax", "log_softmax", "logsumexp", "matmul", "bmm", "einsum", "cat", "where", "rsqrt"),
    ),
    (
        torch.Tensor,
        ("float", "gather", "sum", "log_softmax", "softmax", "logsumexp", "masked_fill", "detach"),
    ),
    (torch.autograd, ("grad", "backward")),
)
"""Functions of PyTorch that scoring rests on."""


def process_state() -> dict[str, str]:
    """Settings and functions by name, in a form that compares; see `fingerprint.differences`."""
    found = {
        "torch default dtype": str(torch.get_default_dtype()),
        "torch default device": str(torch.get_default_device()),
        "torch gradients": str(torch.is_grad_enabled()),
        "torch threads": str(torch.get_num_threads()),
        "torch deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "torch matmul precision": torch.get_float32_matmul_precision(),
        "torch TF32": str((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)),
        "torch flush denormal": str(float(torch.tensor([1e-40]).mul(1.0)) == 0.0),
        "threads": str(sorted(thread.name for thread in threading.enumerate())),
    }
    for owner, names in _LIBRARY:
        for name in names:
            found[f"{owner.__name__}.{name}"] = str(id(getattr(owner, name)))
    for name in sorted(sys.modules):
        if name.startswith(_WATCHED):
            found |= _functions(sys.modules[name])
    return found


def _functions(module: ModuleType) -> dict[str, str]:
    """The functions of a module and of its classes, by the identity of their code."""
    found = {}
    for name, thing in vars(module).items():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if isinstance(thing, FunctionType):
            found[f"{module.__name__}.{name}"] = str(id(thing.__code__))
        elif isinstance(thing, type):
            for key, value in vars(thing).items():
                if isinstance(value, FunctionType):
                    found[f"{module.__name__}.{name}.{key}"] = str(id(value.__code__))
    return found
