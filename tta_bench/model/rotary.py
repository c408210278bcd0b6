"""Rotary positions whose factors depend on how far a window reaches (longrope, dynamic NTK).

Transformers picks these factors once for all rows of a batch, by the largest position in it,
padding included, and leaves them in place for what is read next. A document's loss would depend on
its neighbours and on what was read before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

_KINDS = ("longrope", "su", "dynamic")
_FREQUENCIES = "inv_freq"


def depends_on_width(config: Any) -> bool:
    """Whether rotary factors depend on the largest position that is read.

    Args:
        config: the configuration of a text model.
    """
    values = (getattr(config, name, None) for name in ("rope_parameters", "rope_scaling"))
    return any(kind in _KINDS for value in values for kind in _kinds(value))


def forget_widths(net: nn.Module) -> None:
    """Makes rotary modules of these kinds begin and end each call with their first factors."""
    for module in net.modules():
        kind = getattr(module, "rope_type", None)
        kinds = kind.values() if isinstance(kind, Mapping) else [kind]
        hooked = _restore in module._forward_hooks.values()  # in a copy of a model, for one
        if not hooked and any(name in _KINDS for name in kinds):
            module.register_forward_pre_hook(_restore)
            module.register_forward_hook(_restore)


def _kinds(value: Any) -> Iterator[Any]:
    """The kinds of factors that a configuration names, by layer or for all of them."""
    if isinstance(value, Mapping):
        yield value.get("rope_type", value.get("type"))
        for part in value.values():
            yield from _kinds(part)


def _originals(module: nn.Module) -> list[str]:
    """What stands before the names of a module's factors: nothing, or the kind of a layer."""
    end = f"original_{_FREQUENCIES}"
    return [name.removesuffix(end) for name in dir(module) if name.endswith(end)]


def _restore(module: Any, *_: Any) -> None:
    with torch.inference_mode(False), torch.no_grad():
        for prefix in _originals(module):
            original = getattr(module, f"{prefix}original_{_FREQUENCIES}")
            current = getattr(module, f"{prefix}{_FREQUENCIES}")
            if current.is_inference() or current.device != original.device:
                setattr(module, f"{prefix}{_FREQUENCIES}", original.clone())
            elif current is not original:
                current.copy_(original)  # in place: a model on the same tensors reads them, too
            if hasattr(module, f"{prefix}max_seq_len_cached"):
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
