"""Loading a model, or its tokenizer alone, from `--model SPEC`."""

from __future__ import annotations

from logging import ERROR, getLogger
from typing import Any

import torch

from tta_bench.documents.memory import MEMORY
from tta_bench.model.acceptance.accept import accept
from tta_bench.model.device import pick_device, pick_dtype
from tta_bench.model.explained import explained
from tta_bench.model.findings import USE
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.loading import PLAIN, Loading
from tta_bench.model.memory import memory_model, memory_tokenizer
from tta_bench.model.parts import Parts, find_parts
from tta_bench.model.placement import check_device_map, spread_over
from tta_bench.model.quantisation import bits_and_bytes, check_load_in
from tta_bench.model.random_weights import random_model


def load_model(
    spec: str,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    loading: Loading = PLAIN,
) -> LanguageModel:
    """Loads a model and its tokenizer, and refuses it where no number should be made with it.

    Args:
        spec: one of the forms in `MODEL_SOURCES`, or the name of a model in memory.
        dtype: a name in `DTYPES`, or `auto`.
        device: `auto`, `cuda`, `mps` or `cpu`.
        trust_remote_code: whether to run code that a repository of the hub contains.
        loading: another tokenizer, what becomes of an adapter, few bits, several devices.

    Raises:
        ModelError: the model cannot be found or loaded, was changed meanwhile, or is refused; the
            message says what to do.
        UsageError: the dtype or device is unknown or not available, or an optional package is
            missing.
    """
    model = tried_model(spec, dtype, device, trust_remote_code, loading)
    model.acceptance.require(USE, spec)
    return model


def tried_model(
    spec: str,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    loading: Loading = PLAIN,
) -> LanguageModel:
    """As `load_model`, but a model that was found wanting is returned with what was found."""
    if spec.startswith(MEMORY):
        loading.refuse_where("the model is in memory")
        model = memory_model(spec, dtype, device)
        accept(model)
        return model
    target = pick_device(device)
    kind = pick_dtype(dtype, target)
    quieten_transformers()
    if spec.startswith("config:"):
        loading.refuse_where(f"{spec} is made of random numbers")
        model = random_model(spec.removeprefix("config:"), spec, kind, target)
        accept(model)
        return model
    check_load_in(loading, target)
    check_device_map(loading, device)
    parts = find_parts(spec, loading)
    with parts.held():
        net, told, tokenizer = _from_pretrained(parts, kind, target, trust_remote_code)
        provenance = parts.provenance(tokenizer)
        if loading.load_in is None and not spread_over(net):
            net = _in_own_memory(net.to(target))
    model = LanguageModel(net, tokenizer, spec, provenance)
    accept(model, told)
    return model


def load_tokenizer(spec: str, loading: Loading = PLAIN) -> Any:
    """Loads a model's tokenizer alone: it reads no weights and runs no code from a repository.

    Args:
        spec: one of the forms in `MODEL_SOURCES`.
        loading: whose tokenizer it is, where not the model's own.

    Raises:
        ModelError: the tokenizer cannot be found or loaded.
    """
    if spec.startswith(MEMORY):
        return memory_tokenizer(spec)
    quieten_transformers()
    if spec.startswith("config:"):  # such a model reads with the built-in tokenizer
        spec, loading = "builtin:tiny", PLAIN
    return find_parts(spec, loading).read_tokenizer(False)


def quieten_transformers() -> None:
    """Turns off the progress bars and hints of transformers, which would interrupt our own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # It says at every product that it rounds, which is what it is for.
    getLogger("bitsandbytes").setLevel(ERROR)


def _from_pretrained(
    parts: Parts, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> tuple[Any, dict[str, Any], Any]:
    """The network, what is told of its loading, and the tokenizer."""
    from transformers import AutoModelForCausalLM

    location, loading = parts.weights, parts.loading
    options = parts.options | {"trust_remote_code": trust_remote_code}
    tokenizer = parts.read_tokenizer(trust_remote_code)
    with explained(location, parts.weights_name):
        if location.gguf is None:
            options["use_safetensors"] = True  # loading a pickle can run code
        # Weights of other shapes are told with their names, where transformers only counts them.
        options |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
        if loading.load_in is not None:
            options["quantization_config"] = bits_and_bytes(loading.load_in, dtype)
            options["device_map"] = {"": device}
        if loading.device_map is not None:
            options["device_map"] = loading.device_map
        loaded: Any = AutoModelForCausalLM.from_pretrained(location.path, dtype=dtype, **options)
        net, told = loaded
        if parts.adapter is not None:
            net = parts.adapter.put_on(net, loading)
    return net, told, tokenizer


def _in_own_memory(net: Any) -> Any:
    """The model with its weights copied out of the files that safetensors maps into memory.

    Whatever is written into such a file would reach the run, and a file cut short would end the
    process. Where the dtype or the device is another than the file's, they were copied already.
    """
    if net.device.type == "cpu":
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.data = tensor.data.clone()
    return net
