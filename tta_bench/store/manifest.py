"""The manifest: what a run was made of, and the key that says which runs are the same.

It names no host and no folder of the user's: the prefixes of the home and of the working folder are
cut from every string in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tta_bench.documents.limits import limits_given
from tta_bench.model.identity import model_identity
from tta_bench.store.environment import describe_device, describe_platform, describe_software

SCHEMA_VERSION = 2
"""Of a run's files. Raised when a reader of the former version would misread them.

1: the first. 2: every object bears a checksum, rows the hash of their losses and the number of
their session, and sessions.jsonl is there.
"""

READABLE_SCHEMAS = (1, 2)

ENGINE_VERSION = 1
"""Raised when the same model, method, documents and protocol give other numbers than before."""

KEY_VERSION = "k1"
"""Of the way `run_key` is computed."""

FLOPS_CONVENTION = (
    "2 FLOPs per multiply-add; attention counted as the full rectangle 4 d L (L + past) per layer "
    "forward, its backward twice that; element-wise work, norms, softmax and optimiser arithmetic "
    "not counted"
)


def build_manifest(
    *,
    model: Mapping[str, Any],
    dataset: Mapping[str, Any],
    method: Mapping[str, Any],
    protocol: Mapping[str, Any],
    prefix_id: int | None,
    dtype: str,
    device: str,
    lanes: int | None,
    seeds: Mapping[str, int],
    config: Mapping[str, Any],
    deterministic: bool = False,
    command: Sequence[str] | None = None,
    torch: Any = None,
) -> dict[str, Any]:
    """Everything a reader needs to judge a run or to repeat it, JSON-able, with its key.

    Args:
        model: `name`, `random_weights`, and the provenance its loader gave (hashes, revision).
        dataset: `spec`, `fingerprint`, `documents`, `tokens`, and the limits `limit`,
            `max_tokens`, `min_tokens` where they were given.
        method: `name`, `spec`, `params` (a dataclass or a mapping), `source_sha256`, `family`, and
            `artifacts`, hashes of the files it loads.
        protocol: `Protocol.to_dict()`.
        prefix_id: the id of the prefix token in use, None if there is none.
        dtype: of the model's weights, such as `float32`.
        device: as PyTorch names it, such as `cuda:0`.
        lanes: slots of the batch that were asked for, None where they are as many as fit into
            memory (the summary says how many there were); no number depends on it.
        seeds: by what they seed.
        config: the fully resolved configuration of the command.
        deterministic: whether PyTorch was held to deterministic algorithms. Like the device it is
            no part of the key: it chooses kernels, which only round otherwise.
        command: the command line; `sys.argv` by default.
        torch: the imported module, for threads and the name of a CUDA device.
    """
    words = sys.argv if command is None else command
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "engine_version": ENGINE_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        "model": dict(model),
        "dtype": dtype.removeprefix("torch."),
        "dataset": dict(dataset),
        "method": dict(method),
        "protocol": {**protocol, "prefix_id": prefix_id},
        "lanes": lanes,
        "seeds": dict(seeds),
        "deterministic": deterministic,
        "device": describe_device(device, torch),
        "platform": describe_platform(torch),
        "software": describe_software(),
        "flops_convention": FLOPS_CONVENTION,
        "command": [Path(word).name if i == 0 else word for i, word in enumerate(words)],
        "config": dict(config),
    }
    clean = without_private_paths(jsonable(manifest))
    return {"key": run_key(clean), **clean}


def run_key(manifest: Mapping[str, Any]) -> str:
    """`k1-` and 16 hex digits: equal for two runs whose numbers must be equal."""
    parts = setting(manifest) | {
        "method": {
            name: manifest["method"].get(name) for name in ("name", "params", "source_sha256")
        }
        | _artifacts(manifest["method"]),
        "seeds": manifest.get("seeds"),
    }
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return f"{KEY_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _artifacts(method: Mapping[str, Any]) -> dict[str, Any]:
    """Hashes of the files a method loads; methods that load none have the keys they always had."""
    return {"artifacts": method["artifacts"]} if method.get("artifacts") else {}


def setting(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """All that moves numbers beside the method and its seeds; runs that share it are comparable.

    Names and paths of models and datasets are left out where a hash says what they hold, and so
    are device, lanes and time.
    """
    dataset, protocol = manifest["dataset"], dict(manifest["protocol"])
    if "prefix_id" in protocol:
        protocol.pop("prefix", None)  # `auto` and `bos` are one protocol where they mean one id
    return {
        "engine_version": manifest.get("engine_version"),
        "model": model_identity(manifest["model"]),
        "dtype": manifest.get("dtype"),
        "dataset": {
            "fingerprint": dataset.get("fingerprint") or dataset.get("spec"),
            **limits_given(dataset),
        },
        "protocol": protocol,
    }


def section(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of a manifest; empty where it holds none."""
    found = manifest.get(name)
    return found if isinstance(found, dict) else {}


def jsonable(value: Any) -> Any:
    """The value in the types of JSON; what JSON cannot hold, infinities included, as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def without_private_paths(value: Any) -> Any:
    """The JSON-able value, the working folder cut from its strings and the home written as `~`."""
    folders: dict[str, str] = {}
    for short, folder in (("~", Path.home()), (".", Path.cwd())):
        folders |= {str(path): short for path in (folder, folder.resolve())}
    rules = []
    for path in sorted(folders, key=len, reverse=True):  # the inner of two nested folders first
        if len(Path(path).parts) == 1:  # the root of the file system says nothing of the user
            continue
        whole, short = rf"(?<![\w.~-]){re.escape(path)}", folders[path]
        if short == ".":
            rules.append((re.compile(rf"{whole}/+(?=[^/\s])"), ""))
        rules.append((re.compile(rf"{whole}(?![\w.-])"), short))
    return _replaced(value, rules)


def _replaced(value: Any, rules: Sequence[tuple[re.Pattern[str], str]]) -> Any:
    if isinstance(value, dict):
        return {_replaced(key, rules): _replaced(item, rules) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, rules) for item in value]
    if isinstance(value, str):
        for pattern, short in rules:
            value = pattern.sub(short, value)
    return value
