"""Where in a block a prime MLP stands: before the norm that the block's own MLP reads."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tta_bench import LanguageModel, UsageError
from tta_bench.heads import module_path


def norms_of_mlps(model: LanguageModel) -> list[str]:
    """The name of each block's last norm whose output another part of the block reads as it is.

    In a pre-norm block that is the MLP's norm, whatever it is called and whatever norms come after.
    What stands before it changes what the MLP reads.

    Raises:
        UsageError: a block has none, since it normalises otherwise.
    """
    seen: list[list[tuple[nn.Module, list[Any], Any]]] = [[] for _ in model.layers]
    handles = [
        child.register_forward_hook(partial(_note, calls), with_kwargs=True)
        for layer, calls in zip(model.layers, seen, strict=True)
        for child in layer.children()
    ]
    try:
        # A block that is compiled takes the graph of one that has no hooks.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            model.body(torch.zeros(1, 2, dtype=torch.int64, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for calls in seen:
        read = {id(value) for _, given, _ in calls for value in given}
        norms = [module for module, _, output in calls if _is_norm(module) and id(output) in read]
        if not norms:
            raise UsageError(
                "ttt-e2e puts an MLP before the norm that a block's own MLP reads, and "
                f"{model.name} has blocks without one that has a gain; use a model that normalises "
                "there, such as Llama or Qwen."
            )
        found.append(module_path(model, norms[-1]))
    return found


def _note(calls: list, module: nn.Module, given: tuple, named: dict, output: Any) -> None:
    tensors = [value for value in (*given, *named.values()) if isinstance(value, Tensor)]
    calls.append((module, tensors, output))


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and any(True for _ in module.parameters())
