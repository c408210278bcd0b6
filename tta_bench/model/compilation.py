"""The forward pass with replaced parameters, and its compilation with `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from tta_bench.model.split import Split

SHAPES = 64
"""Number of compiled graphs kept per function: one per model, method and width of a window."""


def run_split(
    split: Split, replaced: Mapping[str, Tensor], what: str, *args: Any, **kwargs: Any
) -> Any:
    """`split(what, *args, **kwargs)` with some of its parameters replaced, by name."""
    if not replaced:
        return split(what, *args, **kwargs)
    return functional_call(split, dict(replaced), (what, *args), kwargs)


def compile_blocks(blocks: Iterable[nn.Module], wanted: bool) -> None:
    """Compiles each block on its own, or undoes that.

    The blocks of a transformer are the same program with different parameters, so that one
    compilation serves all layers: it takes seconds, where the whole model takes minutes. Little can
    be fused across blocks.
    """
    _keep_many_shapes()
    for block in blocks:
        if wanted:
            block.compile(dynamic=False)
        else:
            block._compiled_call_impl = None


def compiled(function: Callable[..., Any], dynamic: bool = False) -> Callable[..., Any]:
    """`torch.compile` for a function of few static shapes, or of many shapes if `dynamic`."""
    _keep_many_shapes()
    return torch.compile(function, dynamic=dynamic)


def _keep_many_shapes() -> None:
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
