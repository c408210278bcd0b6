"""How a model is recorded, and what identifies its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tta_bench.model.own_code import code_sha256
from tta_bench.model.quantisation import parameter_count

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel


def describe_model(model: LanguageModel) -> dict[str, Any]:
    """The `model` section of a manifest: name, size, provenance, and what was found by trial."""
    code = code_sha256(model.net, model.net.config)
    spread = {"spread_over": model.spread_over} if model.spread_over else {}
    tried = {"acceptance": model.acceptance.to_dict()} if model.acceptance.findings else {}
    return {
        "name": model.name,
        "random_weights": model.random_weights,
        "architecture": type(model.net).__name__,
        "parameters": parameter_count(model.net),
        **model.provenance,
        **spread,
        **({} if code is None else {"code_sha256": code}),
        **tried,
    }


def model_identity(description: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a model's weights and own code: hashes or a commit, else name and revision.

    What was done to the weights as they were loaded, and a tokenizer of another model, count where
    there was any; a model without has the identity that it had before there were such options.

    Args:
        description: the model as `describe_model` gives it, or as a manifest stores it.
    """
    return _files(description) | _loaded(description)


def _loaded(description: Mapping[str, Any]) -> dict[str, Any]:
    """The adapter's base and standing, the bits, and the tokenizer, as far as there are any."""
    found: dict[str, Any] = {}
    base, tokenizer = description.get("base"), description.get("tokenizer")
    if isinstance(base, dict):
        found |= {"adapter": description.get("adapter"), "base": _files(base)}
    if description.get("load_in"):
        found["load_in"] = description["load_in"]
    if isinstance(tokenizer, dict):
        found["tokenizer"] = tokenizer.get("sha256")
    return found


def _files(description: Mapping[str, Any]) -> dict[str, Any]:
    hashes = {
        name: value for name, value in description.items() if name.endswith("sha256") and value
    }
    if description.get("commit"):
        hashes["commit"] = description["commit"]
    if description.get("random_weights"):
        hashes["seed"] = description.get("seed")
    return hashes or {"name": description.get("name"), "revision": description.get("revision")}
