"""The calls of linear modules in a forward pass: sizes, and which of them need gradients."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Call:
    """One matrix product with a weight, as autograd sees it."""

    module: str
    size: int  # number of entries of the weight
    rows: float  # rows of the input per token that the model reads
    input_grad: bool
    weight_grad: bool

    def backward(self) -> float:
        """FLOPs per input token (per scored token for the unembedding)."""
        return 2 * self.size * self.rows * (self.input_grad + self.weight_grad)


class Recorder:
    """Records the calls of the linear modules of a model, inside its `with` block.

    Args:
        net: the transformers model.
        tokens: number of tokens that the model reads in a recorded pass.
        adapted: names of modules whose outputs require gradients, as with adapters.
    """

    def __init__(self, net: nn.Module, tokens: int, adapted: Collection[str] = ()):
        self.tokens = tokens
        self.calls: list[Call] = []
        self.anchors: list[Tensor] = []  # zeros added to the outputs of adapted modules
        self._modules = {
            name: module
            for name, module in net.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        }
        self._adapted = adapted
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Recorder:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(partial(self._note, name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(
        self, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        inner, outer = features_of(module)
        self.calls.append(
            Call(
                module=name,
                size=inner * outer,
                rows=args[0].numel() / inner / self.tokens,
                input_grad=args[0].requires_grad,
                weight_grad=weight_of(module).requires_grad,
            )
        )
        if name not in self._adapted:
            return None
        self.anchors.append(torch.zeros((), device=output.device, requires_grad=True))
        return output + self.anchors[-1]


def features_of(module: nn.Module) -> tuple[int, int]:
    """(in, out) features of a Linear or of GPT-2's Conv1D, whose weight is transposed."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inner, outer = weight_of(module).shape
    return inner, outer


def weight_of(module: nn.Module) -> Tensor:
    """The weight, which is a plain tensor while `functional_call` replaces the parameter."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
