"""The model's forward pass with replaced parameters, as it is or through `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

if TYPE_CHECKING:
    from tta_bench.model.split import Split

SHAPES = 64
"""Graphs kept of one function: models, methods and widths of windows that one process may read."""


def run_split(
    split: Split, replaced: Mapping[str, Tensor], what: str, *args: Any, **kwargs: Any
) -> Any:
    """`split(what, *args, **kwargs)` with some of its parameters replaced, by name."""
    if not replaced:
        return split(what, *args, **kwargs)
    return functional_call(split, dict(replaced), (what, *args), kwargs)


@cache
def compiled_run() -> Callable[..., Any]:
    """`run_split`, compiled for every shape it meets. Steps have few shapes, so none is dynamic."""
    return compiled(run_split)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` for static shapes, many of them."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    return torch.compile(function, dynamic=False)
