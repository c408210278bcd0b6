"""Slow weights: what `tta-bench train` writes, one safetensors file that says what it is.

Its metadata holds the method, the options its module was built with, the base model, the recipe,
the cost of training, and the version of tta-bench. Tensors are named `head.*` (the method's own
module) and, where the body was trained too, `body.*` (parameters of the model).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tta_bench.errors import UsageError
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from tta_bench.model.language_model import LanguageModel

FORMAT = "tta-bench slow weights 1"
Body = Literal["frozen", "joint", "scratch"]
"""What was trained beside the module: nothing, the base's body, or a fresh body of its shape."""


@dataclass(frozen=True)
class SlowWeights:
    """Trained slow weights; without tensors where a file was only described (`describe`).

    Attributes:
        method: name of the method they belong to.
        options: fields of the method's `Slow` that the module was built with.
        trained_body: what was trained beside the module.
        base: name and identity of the model they belong to.
        facts: recipe, training (tokens, seconds, FLOPs, device) and versions.
        tensors: the module's tensors, by name.
        body: parameters that replace those of the base model, by name; empty if it was frozen.
    """

    method: str
    options: dict[str, Any]
    trained_body: Body
    base: dict[str, Any]
    facts: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)
    body: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def windows(self) -> tuple[int, ...]:
        """Lengths of the windows that training read; none where they were not recorded."""
        return tuple(self.facts.get("recipe", {}).get("train", {}).get("windows", ()))

    @property
    def training_flops(self) -> float:
        """FLOPs that training took."""
        return float(self.facts.get("training", {}).get("flops") or 0.0)

    @property
    def training_seconds(self) -> float | None:
        """Seconds that training took."""
        return self.facts.get("training", {}).get("seconds")

    def fits(self, model: LanguageModel) -> bool:
        """Whether they were trained for this model."""
        return self.base.get("identity") == base_identity(model, self.trained_body)

    def save(self, file: Path) -> None:
        """Writes the file, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"head.{name}": value for name, value in self.tensors.items()}
        tensors |= {f"body.{name}": value for name, value in self.body.items()}
        about = {
            "format": FORMAT,
            "method": self.method,
            "options": json.dumps(self.options),
            "body": self.trained_body,
            "base": json.dumps(self.base),
            "facts": json.dumps(self.facts),
            "tta_bench": __version__,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{file.name}.part")
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            scratch,
            metadata=about,
        )
        scratch.chmod(0o644)
        os.replace(scratch, file)

    @classmethod
    def describe(cls, file: Path) -> SlowWeights:
        """What a file says of itself, without its tensors.

        Raises:
            UsageError: the file holds no slow weights.
        """
        about = _metadata(file)
        return cls(
            about["method"],
            json.loads(about["options"]),
            about["body"],  # type: ignore[arg-type]
            json.loads(about["base"]),
            json.loads(about["facts"]),
        )

    @classmethod
    def describe_for(cls, file: Path, method: str, model: LanguageModel) -> SlowWeights:
        """As `describe`, for this method on this base model.

        Raises:
            UsageError: the file holds no slow weights, or those of another method or base.
        """
        about = cls.describe(file)
        if about.method != method:
            raise UsageError(f"{file} holds slow weights of {about.method}, not of {method}.")
        if not about.fits(model):
            raise UsageError(
                f"{file} was trained on {about.base.get('name')}, and {model.name} is another "
                "model; choose that model, or train weights for this one."
            )
        return about

    @classmethod
    def load(cls, file: Path, method: str, model: LanguageModel) -> SlowWeights:
        """The weights of a file, on the CPU, checked against the method and the base model.

        Raises:
            UsageError: the file holds no slow weights, or those of another method or base.
        """
        from safetensors.torch import load

        about = cls.describe_for(file, method, model)
        # Not `load_file`, which maps the file into memory: a change would reach a run.
        tensors = load(file.read_bytes())
        return cls(
            about.method,
            about.options,
            about.trained_body,
            about.base,
            about.facts,
            _below("head.", tensors),
            _below("body.", tensors),
        )

    @staticmethod
    def digest(file: Path) -> str:
        """sha256 of the file, which is part of the key of every run that uses it."""
        return hashlib.sha256(file.read_bytes()).hexdigest()


def base_identity(model: LanguageModel, body: Body) -> dict[str, Any]:
    """What a model must have in common with the base of a training.

    A head on a frozen body needs the very weights. A body that comes with the file replaces them
    all, so that shapes and vocabulary are enough.
    """
    if body == "frozen":
        return {"weights": model_identity(describe_model(model))}
    shapes = [[name, list(value.shape)] for name, value in model.net.named_parameters()]
    words = None if model.tokenizer is None else sorted(model.tokenizer.get_vocab().items())
    return {
        "shape": _hash([model.config.model_type, shapes]),
        "vocabulary": _hash(words),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{file} is no readable safetensors file: {error}.") from error
    if about.get("format") != FORMAT:
        raise UsageError(f"{file} holds no slow weights of tta-bench train ({FORMAT}).")
    return about
