"""The manifest: what a run is made of. It names no host and no private folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tta_bench.store.environment import (
    describe_device,
    describe_platform,
    describe_software,
    precision_overrides,
    utc_now,
)
from tta_bench.store.jsonable import jsonable, without_private_paths
from tta_bench.store.key import run_key

SCHEMA_VERSION = 2
"""Version of a run's files, raised when a reader of the previous version would misread them.

1: the first version. 2: every object has a checksum, rows have the hash of their losses and the
number of their session, and sessions.jsonl exists.
"""

READABLE_SCHEMAS = (1, 2)

ENGINE_VERSION = 1
"""Version of the engine, raised when the same model, method, documents and protocol give other
numbers than before."""

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
    probe: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
    torch: Any = None,
    described: bool = True,
) -> dict[str, Any]:
    """Everything that a reader needs to judge or repeat a run, as JSON values, with the run's key.

    Args:
        model: the model as `describe_model` gives it.
        dataset: `spec`, `fingerprint`, `documents`, `tokens`, and `limit`, `max_tokens` and
            `min_tokens` where they were given.
        method: `name`, `spec`, `params` (a dataclass or a mapping), `source_sha256`, `family`, and
            `artifacts`, the hashes of the files that the method loads.
        protocol: `Protocol.to_dict()`.
        prefix_id: id of the prefix token; None if there is none.
        dtype: dtype of the model's weights, such as `float32`.
        device: device as PyTorch names it, such as `cuda:0`.
        lanes: number of lanes that was asked for; None for as many as fit into memory (the summary
            records how many were used). It is not part of the key, since no number depends on it.
        seeds: each seed, by what it seeds.
        config: the fully resolved configuration of the command.
        deterministic: whether PyTorch was restricted to deterministic algorithms. Like the device
            it is not part of the key: it selects kernels, which differ in rounding only.
        probe: `spec`, `document`, `sha256` and `tokens` of the text that is read as a probe; None
            for no probe.
        command: the command line; `sys.argv` by default.
        torch: the imported module, for the number of threads and the name of a CUDA device.
        described: whether device and software are described, for which other programs are asked;
            without, the device has its type alone. The key is the same.
    """
    words = sys.argv if command is None else command
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "engine_version": ENGINE_VERSION,
        "created": utc_now(),
        "model": dict(model),
        "dtype": dtype.removeprefix("torch."),
        "dataset": dict(dataset),
        "method": dict(method),
        "protocol": {**protocol, "prefix_id": prefix_id},
        **({} if probe is None else {"probe": dict(probe)}),
        "lanes": lanes,
        "seeds": dict(seeds),
        "deterministic": deterministic,
        **({"precision_overrides": overrides} if (overrides := precision_overrides()) else {}),
        "device": describe_device(device, torch if described else None),
        "platform": describe_platform(torch),
        **({"software": describe_software()} if described else {}),
        "flops_convention": FLOPS_CONVENTION,
        "command": [Path(word).name if i == 0 else word for i, word in enumerate(words)],
        "config": dict(config),
    }
    clean = without_private_paths(jsonable(manifest))
    return {"key": run_key(clean), **clean}


def section(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of a manifest; empty if the manifest does not have it."""
    found = manifest.get(name)
    return found if isinstance(found, dict) else {}


def device_name(manifest: Mapping[str, Any]) -> str | None:
    """`cpu`, or `cuda NVIDIA H100`; None if the manifest does not say."""
    device = section(manifest, "device")
    return " ".join(str(device[name]) for name in ("type", "name") if device.get(name)) or None
