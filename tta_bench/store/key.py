"""The key of a run: a hash of everything that can change its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tta_bench.documents.limits import limits_given
from tta_bench.model.identity import model_identity

KEY_VERSION = "k1"
"""Version of how `run_key` is computed; it begins every key."""


def run_key(manifest: Mapping[str, Any]) -> str:
    """The key of a run: `k1-` and 16 hex digits, equal for runs whose numbers must be equal."""
    method = manifest["method"]
    parts = setting(manifest) | {
        "method": {name: method.get(name) for name in ("name", "params", "source_sha256")},
        "seeds": manifest.get("seeds"),
    }
    # Runs of methods that load no files were stored without this field: adding it would change
    # their keys.
    if method.get("artifacts"):
        parts["method"]["artifacts"] = method["artifacts"]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return f"{KEY_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def setting(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that changes the numbers except the method and its seeds.

    Runs with equal settings are comparable. Names and paths of models and datasets are left out
    where a hash identifies the contents; device, lanes and time are left out always. Variables of
    the environment that say with how many digits to compute count where they are set.
    """
    dataset, protocol = manifest["dataset"], dict(manifest["protocol"])
    if "prefix_id" in protocol:
        protocol.pop("prefix", None)  # `auto` and `bos` are one protocol if they mean the same id
    overrides = manifest.get("precision_overrides")
    probe = manifest.get("probe")  # no loss of a document depends on it, but other numbers do
    return {
        "engine_version": manifest.get("engine_version"),
        "model": model_identity(manifest["model"]),
        "dtype": manifest.get("dtype"),
        "dataset": {
            "fingerprint": dataset.get("fingerprint") or dataset.get("spec"),
            **limits_given(dataset),
        },
        "protocol": protocol,
        **({"precision_overrides": overrides} if overrides else {}),
        **({"probe": [probe.get("sha256"), probe.get("tokens")]} if probe else {}),
    }
