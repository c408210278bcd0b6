"""What transformers raises over a model's files, as a sentence that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tta_bench.errors import BenchError, ModelError
from tta_bench.extras import require
from tta_bench.model.incomplete import incomplete_weights
from tta_bench.model.locate import NO_PICKLES, Location
from tta_bench.model.no_model import not_a_model


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
    except (torch.OutOfMemoryError, BenchError):
        raise
    except Exception as error:  # files of unknown origin can make transformers raise anything
        lines = str(error).strip().split("\n")
        message = f"{type(error).__name__}: {lines[0].rstrip('.')}"
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{spec} contains code of its own, which runs only with --trust-remote-code."
            ) from error
        reason = not_a_model(location, error)
        if reason is not None:
            raise ModelError(f"{spec} cannot be loaded: {reason}.") from error
        if os.path.exists(location.path):
            missing = None if location.gguf else incomplete_weights(Path(location.path))
            if missing:
                raise ModelError(
                    f"{spec} cannot be loaded: {missing}; copy or download it again."
                ) from error
            raise ModelError(f"{spec} cannot be loaded: {message}.") from error
        if "safetensors" in str(error):
            raise ModelError(f"{spec} cannot be loaded: {NO_PICKLES}") from error
        raise ModelError(
            f"{spec} cannot be loaded from the Hugging Face Hub (unknown name, private, or no "
            "network); give a local folder or .gguf file, or builtin:tiny, which needs no network."
        ) from error
