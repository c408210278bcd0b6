"""Which of the model's own weights dynamic evaluation changes."""

from __future__ import annotations

import re

from torch import Tensor, nn

from tta_bench import LanguageModel, UsageError

SUBSETS = "all, body, mlp, down, query, last-K, blocks-A-B, norm, bias, head or lora"

# A query projection that is one matrix with those of keys and values is not in the list.
_QUERY = re.compile(r"\.(q_proj|q_lin|query|wq)\.weight$")
_DOWN = re.compile(
    r"\.(down_proj|dense_4h_to_h|fc2|fc_out|mlp\.c_proj|feed_forward\.w2)(\.weight)?$"
)


def subset_names(model: LanguageModel, subset: str) -> list[str]:
    """Names of the parameters in a subset.

    `body` leaves out the embeddings and the unembedding; with tied embeddings `head` (and `all`)
    also moves the input embedding, since it is the same tensor. `down` are the matrices that lead
    out of the MLPs and `query` those that make queries, without biases; `blocks-A-B` counts from 0
    and has both ends.

    Raises:
        UsageError: an unknown subset, or one that is empty on this model.
        ModelError: the subset is one of blocks, and those of the model were not found.
    """
    parameters = dict(model.net.named_parameters())
    norms = {
        f"{name}.{part}"
        for name, module in model.net.named_modules()
        if "norm" in type(module).__name__.lower()
        for part, _ in module.named_parameters(recurse=False)
    }
    head = getattr(model.net.get_output_embeddings(), "weight", None)
    ends = _names_of(model, head)
    ends |= _names_of(model, getattr(model.net.get_input_embeddings(), "weight", None))
    last = re.fullmatch(r"last-(\d+)", subset)
    some = re.fullmatch(r"blocks-(\d+)-(\d+)", subset)
    if subset == "all":
        chosen = set(parameters)
    elif subset == "body":
        chosen = set(parameters) - ends
    elif subset == "mlp":
        chosen = {name for block in _blocks(model) for name in block if _is_mlp(name)}
    elif subset == "down":
        chosen = {name for block in _blocks(model) for name in block if leads_out_of_mlp(name)}
    elif subset == "query":
        chosen = {name for block in _blocks(model) for name in block if _QUERY.search(name)}
    elif subset == "norm":
        chosen = norms
    elif subset == "bias":
        chosen = {name for name in parameters if name.endswith("bias")}
    elif subset == "head":
        chosen = _names_of(model, head)
    elif last:
        blocks = _blocks(model)
        if not 1 <= int(last[1]) <= len(blocks):
            raise UsageError(f"subset={subset}: {model.name} has {len(blocks)} layers.")
        chosen = set().union(*blocks[-int(last[1]) :])
    elif some:
        blocks, first, final = _blocks(model), int(some[1]), int(some[2])
        if not first <= final < len(blocks):
            raise UsageError(
                f"subset={subset}: {model.name} has blocks 0 to {len(blocks) - 1}; write the "
                "lower number first."
            )
        chosen = set().union(*blocks[first : final + 1])
    else:
        raise UsageError(f"there is no subset '{subset}'; choose from {SUBSETS}.")
    if not chosen:
        raise UsageError(f"subset={subset} is empty on {model.name}; choose another of {SUBSETS}.")
    return [name for name in parameters if name in chosen]


def leads_out_of_mlp(name: str) -> bool:
    """Whether a parameter is the matrix that leads out of an MLP, by its name."""
    return _DOWN.search(name) is not None


def _blocks(model: LanguageModel) -> list[set[str]]:
    """Names of the parameters of each block; a model whose blocks were not found says so."""
    return [_names_within(model, layer) for layer in model.layers]


def _is_mlp(name: str) -> bool:
    return re.search(r"\.(mlp|feed_forward|ffn)\.", name) is not None


def _names_of(model: LanguageModel, tensor: Tensor | None) -> set[str]:
    return {name for name, value in model.net.named_parameters() if value is tensor}


def _names_within(model: LanguageModel, module: nn.Module) -> set[str]:
    inside = {id(parameter) for parameter in module.parameters()}
    return {name for name, value in model.net.named_parameters() if id(value) in inside}
