"""Stored runs made without a model, for the tests of store, tables and commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tta_bench.store import Row, Run, RunWriter, load_run
from tta_bench.store.manifest import build_manifest

PROTOCOL = {
    "name": "stream",
    "chunk": 1024,
    "context": 0,
    "context_mode": "none",
    "window": None,
    "stride": None,
    "prefix": "auto",
    "reset": "document",
}
COSTS = {
    "flops_per_token": 2.7e8,
    "flops_per_token_counted": 2.7e8,
    "flops_agree": True,
    "flops_note": None,
    "tokens_per_second": 1234.5,
    "step_seconds_median": 0.8,
    "step_seconds_p90": 0.9,
    "step_tokens_median": 1024,
    "peak_allocated_bytes": None,
    "peak_reserved_bytes": None,
    "peak_process_bytes": 3 * 2**29,
    "state_bytes_per_lane": 0,
    "offline_seconds": None,
    "offline_flops": None,
    "seconds": 12.0,
    "lanes": 4,
    "partial": False,
    "valid": True,
    "partial_reason": None,
}


def make_manifest(spec: str = "none", **changes: Any) -> dict[str, Any]:
    """A manifest of the method `spec`; `changes` replace arguments of `build_manifest`."""
    name = spec.split(":")[0]
    arguments: dict[str, Any] = {
        "model": {"name": "smollm2-135m", "sha256": "ab12", "random_weights": False},
        "dataset": {"spec": "builtin:stdlib", "fingerprint": "f00d", "documents": 4},
        "method": {"name": name, "spec": spec, "params": {"of": spec}, "source_sha256": "cd34"},
        "protocol": PROTOCOL,
        "prefix_id": 1,
        "dtype": "float32",
        "device": "cpu",
        "lanes": 4,
        "seeds": {"torch": 0},
        "config": {},
        "command": ["tta-bench", "eval"],
    }
    return build_manifest(**arguments | changes)


def make_losses(index: int, gain: float = 0.0) -> np.ndarray:
    """Losses of document `index`, lower by `gain` nats, more so in later documents."""
    random = np.random.default_rng(index)
    losses = random.exponential(2.5, 100 + 10 * index) + 1 - gain * (1 + 0.1 * index)
    return losses.astype(np.float32)


def make_row(index: int, status: str = "done", **changes: Any) -> Row:
    """The row of document `index`, with 4 bytes and half a word a token."""
    tokens = 100 + 10 * index if status == "done" else 0
    sizes = {"tokens": tokens, "bytes": 4 * tokens, "words": tokens // 2}
    values: dict[str, Any] = {
        "key": f"doc{index}.py",
        "index": index,
        "status": status,
        "seconds": 0.5,
    }
    return Row(**values | sizes | {"sha256": f"{index:064x}"} | changes)


def store_run(
    group: Path,
    spec: str = "none",
    gain: float = 0.0,
    documents: int = 4,
    extra: tuple[Row, ...] = (),
    summary: dict[str, Any] | None = None,
    **manifest: Any,
) -> Run:
    """A finished run, written and read back."""
    with RunWriter.create(group, make_manifest(spec, **manifest)) as writer:
        for index in range(documents):
            writer.append(make_row(index), make_losses(index, gain))
        for row in extra:
            writer.append(row)
        costs = COSTS | {"lanes": writer.manifest["lanes"]}
        writer.finish({"status": "complete", "reason": None} | costs | (summary or {}))
    return load_run(writer.path)
