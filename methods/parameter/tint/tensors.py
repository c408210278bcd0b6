"""What TinT updates, and how fast."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from tta_bench import LanguageModel, UsageError

_QUERIES_AND_KEYS = ("q_proj", "k_proj")
_OUT_OF_MLP = (".mlp.c_proj", ".fc2", ".down_proj")


def updated(model: LanguageModel, layers: int | None) -> dict[str, float]:
    """Names of the updated parameters, each with the factor on its step.

    In the top `layers` blocks all linear maps with their biases, but not those of queries and keys,
    and the biases of norms; also the bias of the last norm. What stays: gains of norms, embeddings
    and the unembedding. The bias of what leads out of an MLP steps by MLP width / model width as
    far: the authors split the MLP into so many pieces, give each its share of the bias, and
    update every share by the whole step.

    Raises:
        UsageError: queries, keys and values are made in a way that is not known here, or the model
            has fewer blocks.
    """
    modules = _last_norm(model)
    for layer in _top(model, layers):
        inside = _paths_within(model, layer)
        kinds = {name.rpartition(".")[2] for name in inside}
        if not (set(_QUERIES_AND_KEYS) <= kinds or "c_attn" in kinds):
            raise UsageError(
                f"tint knows attention with q_proj and k_proj, or c_attn as in GPT-2; {model.name} "
                "has neither."
            )
        modules |= inside
    factors: dict[str, float] = {}
    for name, module in modules.items():
        if name.endswith(_QUERIES_AND_KEYS):
            continue
        for part, value in module.named_parameters(recurse=False):
            if part == "bias":
                pieces = module.weight.numel() / model.hidden_size**2  # type: ignore[operator]
                factors[f"{name}.bias"] = pieces if name.endswith(_OUT_OF_MLP) else 1.0
            elif value.dim() == 2:
                factors[f"{name}.{part}"] = 1.0
    return {name: factors[name] for name, _ in model.net.named_parameters() if name in factors}


def queries_and_keys(
    model: LanguageModel, layers: int | None, trained: Collection[str]
) -> list[str]:
    """Modules of queries and keys to whose inputs a gradient would pass if they were not held."""
    held: list[str] = []
    for number, layer in enumerate(_top(model, layers)):
        paths = _paths_within(model, layer)
        # Below the lowest block nothing is trained: its input needs no gradient, and what its norm
        # makes of it needs one for the bias of the norm alone.
        norms = [name for name, module in paths.items() if is_norm(module)]
        biased = any(f"{name}.bias" in trained for name in norms)
        if number > 0 or biased:
            held += [name for name in paths if name.endswith(_QUERIES_AND_KEYS)]
    return held


def mask_queries_and_keys(name: str, gradient: Tensor) -> Tensor:
    """The gradient [B, ...] without those of queries and keys, where they share a matrix."""
    if ".c_attn." not in name:
        return gradient
    gradient = gradient.clone()
    gradient[..., : 2 * (gradient.shape[-1] // 3)] = 0
    return gradient


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, by the name of its class."""
    return "norm" in type(module).__name__.lower()


def _top(model: LanguageModel, layers: int | None) -> list[nn.Module]:
    total = len(model.layers)
    if layers is not None and layers > total:
        raise UsageError(f"layers={layers}: {model.name} has {total} layers.")
    return list(model.layers)[total - (layers or total) :]


def _paths_within(model: LanguageModel, layer: nn.Module) -> dict[str, nn.Module]:
    inside = {id(module) for module in layer.modules()}
    return {n: module for n, module in model.net.named_modules() if id(module) in inside}


def _last_norm(model: LanguageModel) -> dict[str, nn.Module]:
    """The norm after the last block."""
    inside = {id(module) for layer in model.layers for module in layer.modules()}
    outside = [
        (name, module)
        for name, module in model.net.named_modules()
        if is_norm(module) and id(module) not in inside
    ]
    return dict(outside[-1:])
