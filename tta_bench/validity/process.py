"""What a method could leave behind in the process: settings of PyTorch, and functions replaced."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
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
        (
            "float",
            "gather",
            "sum",
            "max",
            "log_softmax",
            "softmax",
            "logsumexp",
            "masked_fill",
            "detach",
        ),
    ),
    (torch.autograd, ("grad", "backward")),
)
"""Functions of PyTorch that scoring rests on."""


_INHERITED = object()
"""Stands for a function that its owner has from a base class."""


class ProcessState:
    """Settings of PyTorch and functions that make the numbers, as they are when this is made.

    Args:
        threads: whether threads that are running later count as a change. They do not where code
            is compiled in between: the compiler keeps threads of its own.
    """

    def __init__(self, threads: bool = True) -> None:
        self._settings = _settings()
        self._threads = {thread.ident for thread in threading.enumerate()} if threads else None
        self._functions = {(id(owner), name): (owner, value) for owner, name, value in _functions()}

    def changes(self) -> list[str]:
        """Names of what is no longer as it was."""
        now = _settings()
        changed = [name for name, value in self._settings.items() if now[name] != value]
        known = self._threads
        if known is not None and any(t.ident not in known for t in threading.enumerate()):
            changed.append("running threads")
        for (_, name), (owner, value) in self._functions.items():
            if vars(owner).get(name, _INHERITED) is not value:
                changed.append(f"{getattr(owner, '__name__', owner)}.{name}")
        return sorted(changed)

    def restore(self) -> None:
        """Puts settings and functions back; threads go on."""
        torch.set_default_dtype(self._settings["torch default dtype"])
        torch.set_default_device(self._settings["torch default device"])
        torch.set_grad_enabled(self._settings["torch gradients"])
        torch.set_num_threads(self._settings["torch threads"])
        torch.use_deterministic_algorithms(self._settings["torch deterministic algorithms"])
        torch.set_float32_matmul_precision(self._settings["torch matmul precision"])
        torch.backends.cudnn.allow_tf32 = self._settings["torch TF32 of cuDNN"]
        torch.set_flush_denormal(self._settings["torch flush denormal"])
        for (_, name), (owner, value) in self._functions.items():
            if vars(owner).get(name, _INHERITED) is value:
                continue
            if value is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def _settings() -> dict[str, Any]:
    return {
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": torch.get_default_device(),
        "torch gradients": torch.is_grad_enabled(),
        "torch threads": torch.get_num_threads(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch matmul precision": torch.get_float32_matmul_precision(),
        "torch TF32 of cuDNN": torch.backends.cudnn.allow_tf32,
        "torch flush denormal": float(torch.tensor(1e-40, dtype=torch.float32).mul(1.0)) == 0.0,
    }


def _functions() -> Iterator[tuple[Any, str, Any]]:
    """(owner, name, value) of every watched function."""
    for owner, names in _LIBRARY:
        for name in names:
            yield owner, name, vars(owner).get(name, _INHERITED)
    for name in sorted(sys.modules):
        if name.startswith(_WATCHED):
            yield from _of_module(sys.modules[name])


def _of_module(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    """The constants of a module, its functions, and those of its classes."""
    for name, thing in list(vars(module).items()):
        if isinstance(thing, (int, float, str, tuple)) and not name.startswith("__"):
            yield module, name, thing
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if isinstance(thing, FunctionType):
            yield module, name, thing
        elif isinstance(thing, type):
            for key, value in list(vars(thing).items()):
                if isinstance(value, FunctionType):
                    yield thing, key, value
