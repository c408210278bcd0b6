"""Loading a model, or its tokenizer alone, from `--model SPEC`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tta_bench.errors import ModelError
from tta_bench.extras import require
from tta_bench.model.device import pick_device, pick_dtype
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.locate import NO_PICKLES, Location, locate
from tta_bench.model.random_weights import random_model
from tta_bench.model.sources import MODEL_ALIASES


def load_model(
    spec: str, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> LanguageModel:
    """Loads a model and its tokenizer.

    Args:
        spec: one of the forms in `MODEL_SOURCES`.
        dtype: a name in `DTYPES`, or `auto`.
        device: `auto`, `cuda`, `mps` or `cpu`.
        trust_remote_code: whether to run code that a repository of the hub contains.

    Raises:
        ModelError: the model cannot be found or loaded; the message says what to do.
        UsageError: the dtype or device is unknown or not available, or an optional package is
            missing.
    """
    target = pick_device(device)
    kind = pick_dtype(dtype, target)
    resolved = MODEL_ALIASES.get(spec, spec)
    quieten_transformers()
    if resolved.startswith("config:"):
        return random_model(resolved.removeprefix("config:"), spec, kind, target)
    location = locate(resolved, spec)
    net, tokenizer = _from_pretrained(location, kind, spec, trust_remote_code)
    return LanguageModel(net.to(target), tokenizer, spec, location.provenance(net.config))


def load_tokenizer(spec: str, commit: str | None = None) -> Any:
    """Loads a model's tokenizer alone: it reads no weights and runs no code from a repository.

    Args:
        spec: one of the forms in `MODEL_SOURCES`.
        commit: the commit that a manifest names, for a model of the hub.

    Raises:
        ModelError: the tokenizer cannot be found or loaded.
    """
    from transformers import AutoTokenizer

    resolved = MODEL_ALIASES.get(spec, spec)
    quieten_transformers()
    if resolved.startswith("config:"):  # such a model reads with the built-in tokenizer
        resolved = "builtin:tiny"
    location = locate(resolved, spec)
    options = location.options | {"trust_remote_code": False}
    if commit and location.source == "hub":
        options["revision"] = commit
    with explained(location, spec):
        return AutoTokenizer.from_pretrained(location.path, **options)


def quieten_transformers() -> None:
    """Turns off the progress bars and hints of transformers, which would interrupt our own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _from_pretrained(
    location: Location, dtype: torch.dtype, spec: str, trust_remote_code: bool
) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = location.options | {"trust_remote_code": trust_remote_code}
    with explained(location, spec):
        tokenizer = AutoTokenizer.from_pretrained(location.path, **options)
        if location.gguf is None:
            options["use_safetensors"] = True  # loading a pickle can run code
        net = AutoModelForCausalLM.from_pretrained(location.path, dtype=dtype, **options)
    return net, tokenizer


@contextmanager
def explained(location: Location, spec: str) -> Iterator[None]:
    """Turns what transformers raises while loading into a ModelError that says what to do.

    Args:
        location: the files that are loaded inside the block.
        spec: the model as the user named it.

    Raises:
        ModelError: something inside the block failed.
        UsageError: an optional package is missing.
    """
    if location.gguf is not None:
        require("gguf", "accelerate", extra="gguf", what="a GGUF model")
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # files of unknown origin can make transformers raise anything
        lines = str(error).strip().split("\n")
        message = f"{type(error).__name__}: {lines[0].rstrip('.')}"
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{spec} contains code of its own, which runs only with --trust-remote-code."
            ) from error
        if os.path.exists(location.path):
            raise ModelError(f"{spec} cannot be loaded: {message}.") from error
        if "safetensors" in str(error):
            raise ModelError(f"{spec} cannot be loaded: {NO_PICKLES}") from error
        raise ModelError(
            f"{spec} cannot be loaded from the Hugging Face Hub (unknown name, private, or no "
            "network); give a local folder or .gguf file, or builtin:tiny, which needs no network."
        ) from error
