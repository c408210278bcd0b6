"""Which weights dynamic evaluation changes: a subset of the model's own, or low-rank adapters."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from tta_bench import LanguageModel, UsageError

SUBSETS = "all, body, mlp, last-K, norm, bias, head or lora"


def subset_names(model: LanguageModel, subset: str) -> list[str]:
    """Names of the parameters in a subset.

    `body` leaves out the embeddings and the unembedding; with tied embeddings `head` (and `all`)
    also moves the input embedding, since it is the same tensor.

    Raises:
        UsageError: an unknown subset, or one that is empty on this model.
    """
    parameters = dict(model.net.named_parameters())
    norms = {
        f"{name}.{part}"
        for name, module in model.net.named_modules()
        if "norm" in type(module).__name__.lower()
        for part, _ in module.named_parameters(recurse=False)
    }
    ends = _names_of(model, model.net.get_output_embeddings().weight)
    ends |= _names_of(model, model.net.get_input_embeddings().weight)
    blocks = [_names_within(model, layer) for layer in model.layers]
    last = re.fullmatch(r"last-(\d+)", subset)
    if subset == "all":
        chosen = set(parameters)
    elif subset == "body":
        chosen = set(parameters) - ends
    elif subset == "mlp":
        chosen = {name for block in blocks for name in block if _is_mlp(name)}
    elif subset == "norm":
        chosen = norms
    elif subset == "bias":
        chosen = {name for name in parameters if name.endswith("bias")}
    elif subset == "head":
        chosen = _names_of(model, model.net.get_output_embeddings().weight)
    elif last:
        if not 1 <= int(last[1]) <= len(blocks):
            raise UsageError(f"subset={subset}: {model.name} has {len(blocks)} layers.")
        chosen = set().union(*blocks[-int(last[1]) :])
    else:
        raise UsageError(f"there is no subset '{subset}'; choose from {SUBSETS}.")
    if not chosen:
        raise UsageError(f"subset={subset} is empty on {model.name}; choose another of {SUBSETS}.")
    return [name for name in parameters if name in chosen]


def _is_mlp(name: str) -> bool:
    return re.search(r"\.(mlp|feed_forward|ffn)\.", name) is not None


def _names_of(model: LanguageModel, tensor: Tensor | nn.Module) -> set[str]:
    return {name for name, value in model.net.named_parameters() if value is tensor}


def _names_within(model: LanguageModel, module: nn.Module) -> set[str]:
    inside = {id(parameter) for parameter in module.parameters()}
    return {name for name, value in model.net.named_parameters() if id(value) in inside}


class LowRankAdapters:
    """LoRA (Hu et al. 2022): y + B A x on chosen linear modules, A random, B zero, scale 1.

    The modules' own weights stay shared between lanes; `LanguageModel.logits` adds the product.
    """

    def __init__(self, model: LanguageModel, rank: int, targets: tuple[str, ...]):
        self.model = model
        self.rank = rank
        self.modules: dict[str, tuple[nn.Module, int, int]] = {}
        for name, module in model.net.named_modules():
            weight = getattr(module, "weight", None)
            wanted = any(target in name for target in targets)
            if wanted and isinstance(weight, Tensor) and weight.dim() == 2 and _is_linear(module):
                # transformers' Conv1D keeps [in, out], nn.Linear [out, in]
                shape = weight.shape if type(module).__name__ == "Conv1D" else weight.shape[::-1]
                self.modules[name] = (module, int(shape[0]), int(shape[1]))
        if not self.modules:
            raise UsageError(
                f"no linear module of {model.name} has {' or '.join(targets)} in its name; "
                "choose targets from its parameter names."
            )

    def initial(self) -> dict[str, Tensor]:
        """Fresh adapters; seeded, so that every lane and every run starts alike."""
        generator = torch.Generator().manual_seed(0)
        device = self.model.device
        start = {}
        for name, (_, inputs, outputs) in self.modules.items():
            down = torch.randn(self.rank, inputs, generator=generator) * inputs**-0.5
            start[f"{name}.lora_A"] = down.to(device)
            start[f"{name}.lora_B"] = torch.zeros(outputs, self.rank, device=device)
        return start


def _is_linear(module: nn.Module) -> bool:
    # Not what is derived from them: its forward pass may be another.
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"
