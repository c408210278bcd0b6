"""How a model is recorded, and what identifies its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel


def describe_model(model: LanguageModel) -> dict[str, Any]:
    """The `model` section of a manifest: name, size and provenance."""
    return {
        "name": model.name,
        "random_weights": model.random_weights,
        "architecture": type(model.net).__name__,
        "parameters": sum(parameter.numel() for parameter in model.net.parameters()),
        **model.provenance,
    }


def model_identity(description: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a model's weights: hashes or a commit, else its name and revision.

    Args:
        description: the model as `describe_model` gives it, or as a manifest stores it.
    """
    hashes = {
        name: value for name, value in description.items() if name.endswith("sha256") and value
    }
    if description.get("commit"):
        hashes["commit"] = description["commit"]
    if description.get("random_weights"):
        hashes["seed"] = description.get("seed")
    return hashes or {"name": description.get("name"), "revision": description.get("revision")}
