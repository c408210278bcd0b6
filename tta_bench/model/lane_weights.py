"""Weights of a lane's own: one forward pass in which every lane has its own parameters.

A replaced parameter of shape [B, ...] holds one set for each of the B lanes of the batch. The
modules that own such parameters are few kinds, and each has a batched form: a linear map becomes a
batched matrix product, an embedding reads from its lane's table, a norm's gain is broadcast. So the
model runs as it is, once for all lanes, instead of once a lane.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTERS = ("lora_A", "lora_B")
"""Names under a linear module at which low-rank adapters [B, r, in] and [B, out, r] are given."""


class LaneWeights:
    """Makes the modules of a net accept parameters with a lane dimension.

    Without one they compute what they did before, by the same functions.

    Args:
        net: the model whose modules are prepared.
        norm_ranks: as `ranks_of_norms` gives them.
    """

    def __init__(self, net: PreTrainedModel, norm_ranks: Mapping[str, int]):
        self._shapes = {name: value.dim() for name, value in net.named_parameters()}
        self._norms: dict[str, int] = {}  # name of a norm's parameter: rank of what it normalises
        self._unknown: dict[str, str] = {}  # name of a parameter: the class that owns it
        self._adapters: set[str] = set()  # names at which adapters can be given
        for path, module in net.named_modules():
            self._prepare(path, module, norm_ranks.get(path))

    def lanes(self, weights: Mapping[str, Tensor]) -> int | None:
        """B if the weights have a lane dimension, None if all lanes share them."""
        for name, value in weights.items():
            if name not in self._shapes:  # an adapter
                return len(value)
            if value.dim() > self._shapes[name]:
                return len(value)
        return None

    def unknown(self, names: Iterable[str]) -> str | None:
        """A class of module that owns one of these and has no batched form; None if all have."""
        return next((self._unknown[name] for name in names if name in self._unknown), None)

    def check(self, names: Iterable[str]) -> None:
        """Raises ModelError where an adapter's module would not read it."""
        for name in names:
            if name not in self._shapes and name not in self._adapters:
                raise ModelError(
                    f"{name.rpartition('.')[0]} takes no adapter: it is not nn.Linear."
                )

    def broadcast(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights, those of norms shaped so that they broadcast over positions."""
        return {
            name: value.view(
                len(value),
                *[1] * (self._norms[name] - 1 - self._shapes[name]),  # before what a gain has
                *value.shape[1:],
            )
            if name in self._norms
            else value
            for name, value in weights.items()
        }

    def _prepare(self, path: str, module: nn.Module, rank: int | None) -> None:
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        forward = _batched_forward(module)
        if forward is not None:
            # On the instance: other models of the process keep their modules as they are.
            module.forward = types.MethodType(forward, module)
            if forward in (_linear, _conv1d):
                for name in ADAPTERS:
                    module.register_parameter(name, None)
                self._adapters |= {f"{path}.{name}" for name in ADAPTERS}
        # Fused norms take a vector for their gain; only nn.LayerNorm itself has a form for lanes.
        fused = isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and forward is None
        # What normalises [B T, d] gives no place to a lane.
        if rank is not None and rank > 2 and not fused:
            self._norms |= dict.fromkeys(own, rank)
        elif forward is None or forward is _layer_norm:
            self._unknown |= {name: type(module).__name__ for name in own}


def _batched_forward(module: nn.Module) -> Callable[..., Tensor] | None:
    """The form of a module's forward pass that accepts lanes; None if there is none."""
    kind = type(module)
    if kind is nn.Linear:
        return _linear
    if kind.__name__ == "Conv1D":
        return _conv1d
    if isinstance(module, nn.Embedding) and module.max_norm is None:
        # Gemma 3 scales what it looks up; other subclasses are unknown.
        return _embedding if kind is nn.Embedding or hasattr(module, "embed_scale") else None
    if kind is nn.LayerNorm:
        return _layer_norm
    return None


def _linear(self: Any, x: Tensor) -> Tensor:
    return _affine(self, x, self.weight.mT, lambda: F.linear(x, self.weight, self.bias))


def _conv1d(self: Any, x: Tensor) -> Tensor:
    """transformers' Conv1D keeps its weight as [in, out]."""

    def shared() -> Tensor:
        flat = torch.addmm(self.bias, x.flatten(0, -2), self.weight)
        return flat.view(*x.shape[:-1], self.nf)

    return _affine(self, x, self.weight, shared)


def _affine(module: Any, x: Tensor, weight: Tensor, shared: Callable[[], Tensor]) -> Tensor:
    """x W + b + x A^T B^T, where W [in, out] or [B, in, out], and b, A and B may be a lane's.

    x is [B, ..., in], or [B T, in] where a model has flattened its lanes: they lie one after the
    other in both.
    """
    bias, adapter = module.bias, module.lora_A
    own_bias = bias is not None and bias.dim() == 2
    if weight.dim() == 2 and not own_bias and adapter is None:
        return shared()
    lanes = next(
        (
            len(v)
            for v, d in ((weight, 3), (bias, 2), (adapter, 3))
            if v is not None and v.dim() == d
        ),
        1,
    )
    rows = x.reshape(lanes, -1, x.shape[-1])
    if weight.dim() == 3:
        y = _LaneProduct.apply(rows, weight)
        y = y if bias is None else y + (bias[:, None] if own_bias else bias)
    elif own_bias:
        y = rows @ weight + bias[:, None]
    else:
        y = shared().view(lanes, -1, weight.shape[-1])
    if adapter is not None:
        inner, outer = rows @ adapter.mT, module.lora_B.mT
        # Added by the product itself where it can be: y goes through memory once less.
        y = torch.baddbmm(y, inner, outer) if outer.dim() == 3 else y + inner @ outer
    return y.view(*x.shape[:-1], weight.shape[-1])


class _LaneProduct(torch.autograd.Function):
    """x [B, n, in] times W [B, in, out], where W is the transpose of what is stored.

    PyTorch's own backward pass gives the gradient of W as the transpose of what it stores: each sum
    with another gradient, and each step, would then go through memory across the grain.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight.mT) if for_x else None,
            torch.bmm(gradient.mT, x).mT if for_weight else None,
        )


def _embedding(self: Any, ids: Tensor) -> Tensor:
    table = self.weight
    if table.dim() == 3:  # one table after the other, so that one look-up serves all lanes
        lanes, entries, _ = table.shape
        first = torch.arange(lanes, device=ids.device)[:, None] * entries
        found = F.embedding(ids + first, table.flatten(0, 1))
    else:
        found = F.embedding(ids, table, self.padding_idx)
    scale = getattr(self, "embed_scale", None)
    if scale is None:
        return found
    return found * (scale.to(table.dtype) if isinstance(scale, Tensor) else scale)


def _layer_norm(self: Any, x: Tensor) -> Tensor:
    gain, bias = self.weight, self.bias
    if all(value is None or value.dim() == 1 for value in (gain, bias)):
        return F.layer_norm(x, self.normalized_shape, gain, bias, self.eps)
    y = F.layer_norm(x, self.normalized_shape, None, None, self.eps)
    y = y if gain is None else y * gain
    return y if bias is None else y + bias


@torch.inference_mode()
def ranks_of_norms(net: PreTrainedModel) -> dict[str, int]:
    """By path: the rank of what each norm normalises (heads have norms of rank 4 in some models).

    A norm that is used at two ranks is left out; all are, where the model does not run like this.
    """
    seen: dict[str, set[int]] = {}

    def note(path: str) -> Callable[..., None]:
        return lambda module, args: seen.setdefault(path, set()).add(args[0].dim())

    hooks = [
        module.register_forward_pre_hook(note(path))
        for path, module in net.named_modules()
        if "norm" in type(module).__name__.lower()
    ]
    try:
        net(torch.zeros(1, 2, dtype=torch.int64, device=net.device), use_cache=False)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return {}
    finally:
        for hook in hooks:
            hook.remove()
    return {path: ranks.pop() for path, ranks in seen.items() if len(ranks) == 1}
