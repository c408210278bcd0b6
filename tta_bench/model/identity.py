"""What is recorded of a model, and what of it tells its weights from those of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel


def model_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """What tells its weights from others: hashes or a commit; `name` where there are none."""
    hashes = {name: value for name, value in model.items() if name.endswith("sha256") and value}
    if model.get("commit"):
        hashes["commit"] = model["commit"]
    if model.get("random_weights"):
        hashes["seed"] = model.get("seed")
    return hashes or {"name": model.get("name"), "revision": model.get("revision")}


def describe_model(model: LanguageModel) -> dict[str, Any]:
    """What a manifest records of a model."""
    return {
        "name": model.name,
        "random_weights": model.random_weights,
        "architecture": type(model.net).__name__,
        "parameters": sum(value.numel() for value in model.net.parameters()),
        **model.provenance,
    }
