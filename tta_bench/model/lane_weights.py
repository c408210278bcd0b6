"""One forward pass in which every lane has its own parameters.

A replaced parameter of shape [B, ...] has one set of values for each of the B lanes. Parameters
belong to few kinds of modules, and each has a batched form: a linear map becomes a batched matrix
product, an embedding reads from the table of its lane, and the gain of a norm is broadcast. So the
model runs once for all lanes instead of once per lane.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.errors import ModelError
from tta_bench.model.placement import reading_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTERS = ("lora_A", "lora_B")
"""Names of the low-rank adapters of a linear module: [B, r, in] and [B, out, r]."""


class LaneWeights:
    """Makes the modules of a model accept parameters with a lane dimension.

    Parameters without a lane dimension are computed with the original functions, exactly as before.

    Args:
        net: the transformers model, whose modules are changed.
        norm_ranks: the result of `ranks_of_norms`.
    """

    def __init__(self, net: PreTrainedModel, norm_ranks: Mapping[str, int]):
        self._shapes = {name: value.dim() for name, value in net.named_parameters()}
        self._norms: dict[
            str, int
        ] = {}  # parameter of a norm -> rank of the tensor that it normalises
        self._unknown: dict[
            str, str
        ] = {}  # parameter -> class of its module, which has no batched form
        self._adapters: set[str] = set()  # names of all possible adapters
        for path, module in net.named_modules():
            self._prepare(path, module, norm_ranks.get(path))

    def lanes(self, weights: Mapping[str, Tensor]) -> int | None:
        """B if the weights have a lane dimension; None if all lanes share them."""
        for name, value in weights.items():
            if name not in self._shapes:  # an adapter
                return len(value)
            if value.dim() > self._shapes[name]:
                return len(value)
        return None

    def unknown(self, names: Iterable[str]) -> str | None:
        """A class of module that owns one of these parameters and has no batched form, if any."""
        return next((self._unknown[name] for name in names if name in self._unknown), None)

    def check(self, names: Iterable[str]) -> None:
        """Raises ModelError for an adapter whose module would ignore it."""
        for name in names:
            if name not in self._shapes and name not in self._adapters:
                raise ModelError(
                    f"{name.rpartition('.')[0]} takes no adapter: it is not a linear module."
                )

    def broadcast(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights, with those of norms reshaped to broadcast over positions."""
        return {
            name: value.view(
                len(value),
                *[1]
                * (self._norms[name] - 1 - self._shapes[name]),  # between the lanes and the gain
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
            # Set on the instance, so that other models of the process are not changed.
            module.forward = types.MethodType(forward, module)
            if forward in (_linear, _conv1d):
                for name in ADAPTERS:
                    module.register_parameter(name, None)
                self._adapters |= {f"{path}.{name}" for name in ADAPTERS}
        # Fused norms need a vector as gain; of these only nn.LayerNorm has a batched form.
        fused = isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and forward is None
        # A norm of [B T, d] has no lane dimension to broadcast over.
        if rank is not None and rank > 2 and not fused:
            self._norms |= dict.fromkeys(own, rank)
        elif forward is None or forward is _layer_norm:
            self._unknown |= {name: type(module).__name__ for name in own}


_HONOURED = {
    "Linear": {"in_features", "out_features"},
    "Conv1D": {"nf", "nx"},
    "LayerNorm": {"normalized_shape", "eps", "elementwise_affine"},
    "Embedding": {"num_embeddings", "embedding_dim", "padding_idx"}
    | {"embed_scale", "scalar_embed_scale", "norm_type"},  # the last is read beside `max_norm` only
}
"""The attributes that the batched form of a module takes from it, or that change nothing."""
_OF_ANY_MODULE = {*vars(nn.Module()), "forward", "_is_hf_initialized"}


def _batched_forward(module: nn.Module) -> Callable[..., Tensor] | None:
    """The batched form of a module's forward pass; None if there is none.

    There is none for a module with an attribute that its batched form does not honour, such as
    `max_norm`: it may mean another forward pass, or another gradient.
    """
    name = type(module).__name__
    form = {nn.Linear: _linear, nn.LayerNorm: _layer_norm, nn.Embedding: _embedding}.get(
        type(module), _conv1d if name == "Conv1D" else None
    )
    if form is None and isinstance(module, nn.Embedding) and hasattr(module, "embed_scale"):
        name, form = "Embedding", _embedding  # as Gemma 3 has it; other subclasses are unknown
    own = {} if form is None else vars(module)
    others = own.keys() - _OF_ANY_MODULE - _HONOURED.get(name, set())
    return None if any(own[other] not in (None, False) for other in others) else form


def _linear(self: Any, x: Tensor) -> Tensor:
    return _affine(self, x, self.weight.mT, lambda: F.linear(x, self.weight, self.bias))


def _conv1d(self: Any, x: Tensor) -> Tensor:
    """Conv1D of transformers, whose weight is [in, out]."""

    def shared() -> Tensor:
        flat = torch.addmm(self.bias, x.flatten(0, -2), self.weight)
        return flat.view(*x.shape[:-1], self.nf)

    return _affine(self, x, self.weight, shared)


def _affine(module: Any, x: Tensor, weight: Tensor, shared: Callable[[], Tensor]) -> Tensor:
    """x W + b + x A^T B^T, where each of W, b, A and B may have a lane dimension.

    x is [B, ..., in], or [B T, in] in models that flatten lanes and positions; both have the same
    order in memory.
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
        # baddbmm adds to y in the product itself, which saves one pass over memory.
        y = torch.baddbmm(y, inner, outer) if outer.dim() == 3 else y + inner @ outer
    return y.view(*x.shape[:-1], weight.shape[-1])


class _LaneProduct(torch.autograd.Function):
    """x [B, n, in] times W [B, in, out], where W is the transpose of the stored weight.

    PyTorch's own backward pass returns a gradient that is contiguous in the transposed layout: sums
    of gradients, and steps, would then read memory with large strides.
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
    if table.dim() == 3:  # the tables concatenated, so that one look-up serves all lanes
        lanes, entries, _ = table.shape
        first = torch.arange(lanes, device=ids.device)[:, None] * entries
        found = F.embedding(ids + first, table.flatten(0, 1))
        if self.padding_idx is not None:  # its row is read, and never learns from being read
            found = torch.where((ids == self.padding_idx)[..., None], found.detach(), found)
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
    """Rank of the tensor that each norm normalises, by the path of the norm.

    In some models the norms inside attention heads have rank 4. A norm that is used at two ranks is
    left out. If the model does not run on two tokens, the result is empty.
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
        net(torch.zeros(1, 2, dtype=torch.int64, device=reading_device(net)), use_cache=False)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return {}
    finally:
        for hook in hooks:
            hook.remove()
    return {path: ranks.pop() for path, ranks in seen.items() if len(ranks) == 1}
