"""Stored runs as a pandas table; docs/results.md explains its columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.errors import UsageError
from tta_bench.store import Run, load_run
from tta_bench.store.catalog import run_folders
from tta_bench.store.manifest import section
from tta_bench.store.verdict import valid_of, valid_reason_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: dict[str, str] = {
    "group": "string",
    "run": "string",
    "key": "string",
    "created": "string",
    "run_status": "string",
    "run_valid": "Int64",
    "run_valid_reason": "string",
    "model": "string",
    "dataset": "string",
    "method": "string",
    "method_spec": "string",
    "protocol": "string",
    "chunk_tokens": "Int64",
    "context_tokens": "Int64",
    "context_mode": "string",
    "dtype": "string",
    "device": "string",
    "lanes": "Int64",
    "seed": "Int64",
    "document": "string",
    "document_index": "Int64",
    "document_sha256": "string",
    "status": "string",
    "reason": "string",
    "tokens": "Int64",
    "bytes": "Int64",
    "words": "Int64",
    "nll_nats": "Float64",
    "nll_nats_per_token": "Float64",
    "top1": "Int64",
    "seconds": "Float64",
    "session": "Int64",
    "run_flops_per_token": "Float64",
    "run_tokens_per_second": "Float64",
    "run_seconds": "Float64",
    "run_peak_allocated_bytes": "Float64",
    "run_peak_process_bytes": "Float64",
    "run_state_bytes_per_lane": "Float64",
}
"""Columns of the table, in order, with their pandas types."""

_COSTS = [name for name in COLUMNS if name.startswith("run_") and COLUMNS[name] == "Float64"]


def load_results(path: str | os.PathLike[str] = "results") -> pd.DataFrame:
    """One row per document of every run in a run's folder, a group or a folder of groups.

        frame = tta_bench.load_results("results/quickstart")
        frame.groupby("method_spec")[["nll_nats", "tokens"]].sum()

    A run that has no row yet has none here. What is not known is missing (`pd.NA`), never zero.

    Raises:
        UsageError: there is no run.
        BenchError: a file is damaged; the sentence names it.
    """
    return frame_of(load_runs(path))


def load_runs(path: str | os.PathLike[str]) -> list[Run]:
    """Every run in a run's folder, a group or a folder of groups, sorted by folder.

    Raises:
        UsageError: there is no run.
        BenchError: a file is damaged; the sentence names it.
    """
    folder = Path(path)
    runs = [load_run(found) for found in run_folders(folder)]
    if not runs:
        raise UsageError(f"{folder} holds no run: there is no manifest.json in it or below.")
    return runs


def frame_of(
    runs: Sequence[Run], more: Sequence[Mapping[str, float | None]] | None = None
) -> pd.DataFrame:
    """One row per document of the runs.

    Args:
        runs: stored runs.
        more: further numbers of each run by column, the same columns for every run.
    """
    import pandas as pd

    added = more or [{}] * len(runs)
    columns = COLUMNS | dict.fromkeys((name for values in added for name in values), "Float64")
    records = [
        record | dict(values)
        for run, values in zip(runs, added, strict=True)
        for record in _records(run)
    ]
    return pd.DataFrame.from_records(records, columns=list(columns)).astype(columns)


def _count(value: Any) -> int | None:
    """A whole number of a manifest; None where it holds something else."""
    known = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value if known else None


def _records(run: Run) -> list[dict[str, Any]]:
    manifest = run.manifest
    protocol = manifest["protocol"]
    shared = {
        "group": run.path.resolve().parent.name,
        "run": run.path.resolve().name,
        "key": manifest["key"],
        "created": manifest.get("created"),
        "run_status": run.status,
        "run_valid": valid_of(run),
        "run_valid_reason": valid_reason_of(run),
        "model": manifest["model"].get("name"),
        "dataset": manifest["dataset"].get("spec"),
        "method": run.method,
        "method_spec": run.spec,
        "protocol": protocol.get("name"),
        "chunk_tokens": _count(protocol.get("chunk")),
        "context_tokens": _count(protocol.get("context")),
        "context_mode": protocol.get("context_mode"),
        "dtype": manifest.get("dtype"),
        "device": run.device,
        "lanes": run.lanes,
        "seed": _count(section(manifest, "seeds").get("torch")),
        **{name: run.cost(name.removeprefix("run_")) for name in _COSTS},
    }
    return [
        {
            **shared,
            "document": row.key,
            "document_index": row.index,
            "document_sha256": row.sha256,
            "status": row.status,
            "reason": row.reason,
            "tokens": row.tokens,
            # 0 where no one can say which bytes the scored tokens cover
            "bytes": row.bytes or None,
            "words": row.words or None,
            "nll_nats": row.nll,
            "nll_nats_per_token": row.nll_per_token,
            "top1": row.top1,
            "seconds": row.seconds,
            "session": row.session,
        }
        for row in run.rows
    ]
