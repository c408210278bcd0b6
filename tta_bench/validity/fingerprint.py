"""What a model is, bit for bit and to its last attribute, so that a change by a method is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel

_PIECE = 2**22
"""Elements summed at a time: the sums need eight bytes for each."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
"""Types of attributes that are compared by value; what holds tensors is compared as tensors."""

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)


def fingerprint(model: LanguageModel) -> dict[str, str]:
    """Each parameter, buffer, module and setting of a model, by name, in a form that compares.

    Two fingerprints differ where anything that can move a loss differs: a bit of a weight or of a
    buffer, two rows exchanged, the epsilon of a norm, a hook, a flag, a replaced `forward`.
    """
    net = model.net
    found = {"configuration": _text(net.config.to_dict())}
    methods = vars(type(model))
    found["model"] = _text([n for n in vars(model) if isinstance(methods.get(n), FunctionType)])
    for name, tensor in _tensors(net):
        found[name] = f"{tuple(tensor.shape)} {tensor.dtype} {checksum(tensor):x}"
    for name, module in net.named_modules():
        found[f"module {name or 'net'}"] = _module(module)
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of what has changed, come or gone, sorted."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )


def checksum(tensor: Tensor) -> int:
    """A sum over the bits of a tensor in which every place has a weight of its own.

    Unlike a plain sum it sees entries that changed places; unlike a float sum it sees NaN.
    """
    if tensor.is_meta:
        return 0  # its values are kept elsewhere, and brought as they are read
    flat = tensor.detach().contiguous().flatten().view(_INTEGERS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(flat), _PIECE):
        piece = flat[start : start + _PIECE].long()
        places = torch.arange(start, start + len(piece), device=flat.device)
        weights = places * 0x9E3779B97F4A7C1 | 1  # odd, so that no changed bit is multiplied away
        total += ((piece + 1) * weights).sum()
    return int(total) & (2**64 - 1)


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, those that are not saved included, and their gradients if any."""
    yield from net.named_buffers()
    for name, parameter in net.named_parameters():
        yield name, parameter
        if parameter.grad is not None:
            yield f"{name}.grad", parameter.grad


def _module(module: nn.Module) -> str:
    own = {
        key: repr(value)
        for key, value in vars(module).items()
        if isinstance(value, _PLAIN) and not key.startswith("_compiled")
    }
    hooks = {name: len(getattr(module, name, ())) for name in _HOOKS}
    # A replaced `forward` is told by its identity; what compilation leaves there is the bench's.
    methods = {
        key: id(value)
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_compiled")
    }
    frozen = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
    return _text([type(module).__qualname__, own, hooks, methods, frozen])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
