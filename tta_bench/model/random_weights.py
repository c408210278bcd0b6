"""`config:FILE`: a model of a configuration's shape with random weights, for measuring speed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from tta_bench.errors import ModelError
from tta_bench.files import file_sha256
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.locate import built_in_folder

SEED = 0


def random_model(file: str, spec: str, dtype: torch.dtype, device: torch.device) -> LanguageModel:
    """Builds a model with random weights.

    Args:
        file: a config.json, or a folder that contains one.
        spec: the model as the user named it.
        dtype: dtype of the weights.
        device: device on which the weights are drawn.

    Raises:
        ModelError: there is no such file, it is not a configuration that transformers knows, or its
            vocabulary is too small for the built-in tokenizer.
    """
    from transformers import AutoModelForCausalLM

    config, provenance = read_configuration(file)
    try:
        torch.manual_seed(SEED)
        with torch.device(device):
            net = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a file of unknown origin can make transformers raise anything
        raise _not_a_configuration(file, error) from error
    tokenizer = built_in_tokenizer(config, file)
    return LanguageModel(net, tokenizer, spec, provenance, random_weights=True)


def read_configuration(file: str) -> tuple[Any, dict[str, Any]]:
    """A configuration of transformers, and the provenance of a model with random weights.

    Raises:
        ModelError: there is no such file, or it is not a configuration that transformers knows.
    """
    from transformers import AutoConfig

    path = Path(os.path.expanduser(file))
    if os.path.isdir(path):
        path = path / "config.json"
    if not os.path.isfile(path):
        raise ModelError(f"there is no configuration file {file}.")
    try:
        config = AutoConfig.for_model(**json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:  # a file of unknown origin can make transformers raise anything
        raise _not_a_configuration(file, error) from error
    return config, {"source": "config", "config_sha256": file_sha256(path), "seed": SEED}


def built_in_tokenizer(config: Any, file: str) -> Any:
    """The built-in tokenizer: the text does not matter for speed, so any ids that fit will do.

    Raises:
        ModelError: the configuration's vocabulary is too small.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(built_in_folder("tiny")))
    vocabulary = config.get_text_config().vocab_size
    if len(tokenizer) > vocabulary:
        raise ModelError(
            f"{file} has a vocabulary of {vocabulary}, smaller than the built-in tokenizer's "
            f"{len(tokenizer)}; set vocab_size to at least that."
        )
    return tokenizer


def _not_a_configuration(file: str, error: Exception) -> ModelError:
    problem = str(error).strip().split("\n")[0].rstrip(".")
    return ModelError(f"{file} is not a transformers configuration: {problem}.")
