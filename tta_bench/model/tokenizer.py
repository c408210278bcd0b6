"""Reading a model's tokenizer; a folder that has none, or a damaged one, is told as that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tta_bench.errors import ModelError
from tta_bench.model.locate import Location

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a local folder holds the files of a tokenizer."""
    return any(os.path.isfile(Path(folder, name)) for name in _FILES)


def read_tokenizer(location: Location, spec: str, options: dict[str, Any]) -> Any:
    """The tokenizer of a located model, as transformers makes it.

    Args:
        location: the model's files.
        spec: the model as the user named it.
        options: arguments for `from_pretrained`.

    Raises:
        ModelError: the files hold no tokenizer, or one that cannot be read.
        Exception: whatever transformers raises where the tokenizer is not the cause.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location.path, **options)
    except Exception as error:  # files of unknown origin can make transformers raise anything
        if not _is_the_cause(location, error, options):
            raise
        found = [name for name in _FILES if os.path.isfile(Path(location.path, name))]
        if not found:
            raise ModelError(_without(spec)) from error
        cause = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0].rstrip('.')}"
        raise ModelError(
            f"the tokenizer of {spec} ({', '.join(found)}) cannot be read: {cause}; bring a whole "
            "copy of it."
        ) from error
    # Where files are missing, some classes of transformers give an empty tokenizer and no error.
    special = set(tokenizer.all_special_tokens)
    if len(set(tokenizer.get_vocab()) - special) <= 1:
        raise ModelError(_without(spec))
    return tokenizer


def _without(spec: str) -> str:
    return (
        f"{spec} has no tokenizer: name the model or folder that has it with --tokenizer, or put "
        "its files, such as tokenizer.json, beside the weights."
    )


def _is_the_cause(location: Location, error: Exception, options: dict[str, Any]) -> bool:
    """Whether the model's configuration can be read, so that only the tokenizer failed."""
    from transformers import AutoConfig

    if location.gguf is not None or not os.path.isdir(location.path):
        return False
    if "trust_remote_code" in str(error) or isinstance(error, ImportError):
        return False
    try:
        AutoConfig.from_pretrained(location.path, **options)
    except Exception:  # as above; what is wrong is told elsewhere
        return False
    return True
