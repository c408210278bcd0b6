"""What tells the weights of one model from those of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """What tells its weights from others: hashes or a commit; `name` where there are none."""
    hashes = {name: value for name, value in model.items() if name.endswith("sha256") and value}
    if model.get("commit"):
        hashes["commit"] = model["commit"]
    if model.get("random_weights"):
        hashes["seed"] = model.get("seed")
    return hashes or {"name": model.get("name"), "revision": model.get("revision")}
