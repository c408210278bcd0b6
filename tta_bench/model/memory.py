"""Models that Python holds already: known by a name while they are used, and left as they were.

A model in memory is named `memory:HASH` after its weights, configuration and tokenizer. What is
read under that name has modules, hooks, flags and a configuration of its own and shares nothing
with the model but the storage of its weights, of which a copy is kept aside: whatever a method
does, and however an evaluation ends, the model is put back bit for bit.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tta_bench.documents.memory import MEMORY
from tta_bench.documents.tokens import tokenizer_identity
from tta_bench.errors import ModelError
from tta_bench.model.device import pick_device, pick_dtype
from tta_bench.model.language_model import LanguageModel

_PASSING = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""What a configuration says of where a model comes from and how it is stored, not of what it is."""
_HASHED_ELSEWHERE = ("torch", "transformers", "transformers_modules")
"""Packages whose versions the manifest has, and the code that repositories of the hub bring."""
_PIECE = 1 << 26  # bytes hashed at a time


@dataclass(frozen=True, eq=False)
class _Held:
    """A model in memory.

    Attributes:
        net: the model as it was handed in.
        tokenizer: a copy of its tokenizer.
        provenance: what the manifest records.
        share: whether what is read shares the storage of its weights, or has copies.
        kept: copies of all values, by their place in memory.
    """

    net: Any
    tokenizer: Any
    provenance: dict[str, Any]
    share: bool
    kept: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def restore(self) -> None:
        """Puts back what was written into the shared storage."""
        for value in _values(self.net):
            kept = self.kept.get(id(value))
            if kept is not None and not _same_bits(value, kept):
                with torch.no_grad():
                    value.data.copy_(kept)


_HELD: dict[str, _Held] = {}


@contextmanager
def held_model(net: Any, tokenizer: Any, share: bool = True) -> Iterator[str]:
    """Makes a model in memory known inside the block, and puts it back afterwards.

    Args:
        net: a causal language model of transformers.
        tokenizer: its tokenizer.
        share: whether what is read shares the storage of the weights, which saves the memory of the
            device; what trains them must not.

    Yields:
        The name that `load_model` takes, `memory:HASH`.

    Raises:
        ModelError: it is no such model, or something that no name could tell apart.
    """
    _refuse(net, tokenizer)
    provenance = {"source": "memory", "sha256": _identity(net, tokenizer), **_own_classes(net)}
    digest = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()
    name = f"{MEMORY}{digest[:12]}"
    held = _Held(net, copy.deepcopy(tokenizer), provenance, share)
    if share:
        for value in _values(net):
            held.kept[id(value)] = value.detach().cpu().clone()
    before = _HELD.get(name)
    _HELD[name] = held
    try:
        yield name
    finally:
        held.restore()
        if before is None:
            del _HELD[name]
        else:
            _HELD[name] = before


def memory_model(name: str, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """What is read of a model in memory; `auto` is the dtype and the device that it has.

    Raises:
        ModelError: no model of that name is in memory.
        UsageError: the dtype or device is unknown or not available.
    """
    held = _held(name)
    held.restore()
    target = held.net.device if device == "auto" else pick_device(device)
    net = _on_its_own(held.net, held.share)
    if dtype != "auto":
        _convert(net, pick_dtype(dtype, target))
    return LanguageModel(net.to(target), held.tokenizer, name, held.provenance)


def memory_tokenizer(name: str) -> Any:
    """The tokenizer of a model in memory.

    Raises:
        ModelError: no model of that name is in memory.
    """
    return _held(name).tokenizer


def _held(name: str) -> _Held:
    if name not in _HELD:
        raise ModelError(
            f"{name} was a model in the memory of a Python session, so that its runs cannot be "
            "repeated from their manifests alone; hand the model to tta_bench.evaluate again."
        )
    return _HELD[name]


def _refuse(net: Any, tokenizer: Any) -> None:
    """Raises ModelError for what cannot be measured, or not be told apart by a hash."""
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    kind = type(net).__name__
    if any(hasattr(net, name) for name in ("peft_config", "merge_and_unload")):
        raise ModelError(
            f"the model holds an adapter ({kind}); merge it into its base (merge_and_unload of "
            "PEFT) and hand in the result."
        )
    if not isinstance(net, PreTrainedModel):
        raise ModelError(
            f"the model must be a causal language model of transformers, or a spec, not {kind}."
        )
    if net.get_output_embeddings() is None:
        raise ModelError(f"{kind} predicts no tokens; load the model with AutoModelForCausalLM.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        what = "none" if tokenizer is None else type(tokenizer).__name__
        raise ModelError(
            f"a model in memory needs its tokenizer, one of transformers, and got {what}; write "
            "model=(model, tokenizer)."
        )
    if getattr(net, "is_quantized", False):
        raise ModelError(f"{kind} is quantised in memory; name its folder or its id instead.")
    devices = {value.device for value in net.parameters()}
    if len(devices) > 1 or any(device.type == "meta" for device in devices):
        places = ", ".join(sorted(map(str, devices)))
        raise ModelError(f"the model lies on {places}; move all of it to one device first.")
    changed = _changed_module(net)
    if changed is not None:
        raise ModelError(
            f"the model's module {changed} has a hook or a forward of its own, which no hash can "
            "tell; remove it first."
        )


def _changed_module(net: nn.Module) -> str | None:
    """A module whose forward pass is not that of its class."""
    for path, module in net.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks)
        if any(hooks) or "forward" in vars(module):
            return path or type(module).__name__
    return None


def _values(net: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, each once."""
    yield from net.parameters()
    yield from net.buffers()


def _same_bits(value: Tensor, kept: Tensor) -> bool:
    ours, theirs = (_bits(x) for x in (value, kept))
    return torch.equal(ours, theirs.to(ours.device))


def _bits(value: Tensor) -> Tensor:
    return value.detach().contiguous().reshape(-1).view(torch.uint8)


def _on_its_own(net: nn.Module, share: bool) -> Any:
    """The same model with modules of its own and no gradients.

    Parameters share the storage of the originals if `share`; buffers, which are small and which
    some models write, never do.
    """
    memo: dict[int, Any] = {}
    for parameter in net.parameters():
        value = parameter.detach() if share else parameter.detach().clone()
        memo[id(parameter)] = nn.Parameter(value, requires_grad=False)
    for buffer in net.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    own = copy.deepcopy(net, memo)
    for module in own.modules():  # those of the user's training look at gradients
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    return own


def _convert(net: nn.Module, dtype: torch.dtype) -> None:
    """Weights in another dtype; what is computed, such as frequencies, stays as precise as it was,
    as where transformers loads a model in that dtype.
    """
    for module in net.modules():
        computed = module._non_persistent_buffers_set
        saved = [value for name, value in module._buffers.items() if name not in computed]
        for value in (*module.parameters(recurse=False), *saved):
            if value is not None and value.is_floating_point():
                value.data = value.data.to(dtype)


def _identity(net: Any, tokenizer: Any) -> dict[str, str]:
    """Hashes of the weights, the configuration and the tokenizer."""
    weights = hashlib.sha256()
    tensors = [*net.named_parameters(remove_duplicate=False), *net.named_buffers()]
    for name, value in sorted(tensors, key=lambda pair: pair[0]):
        weights.update(f"{name} {tuple(value.shape)} {value.dtype}\0".encode())
        for piece in _bits(value).split(_PIECE):
            weights.update(piece.cpu().numpy())
    config = {k: v for k, v in net.config.to_dict().items() if k not in _PASSING}
    text = json.dumps([type(net).__name__, config], sort_keys=True, default=str)
    return {
        "weights": weights.hexdigest(),
        "config": hashlib.sha256(text.encode()).hexdigest(),
        "tokenizer": tokenizer_identity(tokenizer),
    }


def _own_classes(net: nn.Module) -> dict[str, str]:
    """The hash of the source of classes of the user's own, if there are."""
    kinds = {type(module) for module in net.modules()}
    own = [k for k in kinds if k.__module__.partition(".")[0] not in _HASHED_ELSEWHERE]
    if not own:
        return {}
    digest = hashlib.sha256()
    for kind in sorted(own, key=lambda k: (k.__module__, k.__qualname__)):
        try:
            digest.update(inspect.getsource(kind).encode())
        except (OSError, TypeError) as error:
            raise ModelError(
                f"the source of the model's class {kind.__qualname__} cannot be read; define it in "
                "a file."
            ) from error
    return {"classes_sha256": digest.hexdigest()}
