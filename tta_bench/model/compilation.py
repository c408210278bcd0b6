"""The model's forward pass with replaced parameters, and what of it `torch.compile` compiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
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


def compile_blocks(blocks: Iterable[nn.Module], wanted: bool) -> None:
    """Compiles each block by itself, or undoes it.

    The blocks of a transformer are one program with other parameters: it is compiled once and not
    once a layer, in seconds where the whole model takes minutes. Between them is little to fuse.
    """
    _keep_many_shapes()
    for block in blocks:
        if wanted:
            block.compile(dynamic=False)
        else:
            block._compiled_call_impl = None


def compiled(function: Callable[..., Any], dynamic: bool = False) -> Callable[..., Any]:
    """`torch.compile` for functions of few static shapes; `dynamic` for one of many shapes."""
    _keep_many_shapes()
    return torch.compile(function, dynamic=dynamic)


def _keep_many_shapes() -> None:
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
