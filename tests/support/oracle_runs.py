"""Stored runs on streams with a known best reader, made without a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from stored_runs import COSTS, PROTOCOL, make_manifest

from tta_bench.oracle.best import best_readers
from tta_bench.store import Row, Run, RunWriter, load_run

LENGTH = 256
VOCABULARY = 4000

Lose = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
"""From the number of a document and both best readers' losses to the losses of a method."""


def store_oracle_run(
    group: Path,
    spec: str,
    lose: Lose,
    *,
    dataset: str = "oracle:markov-1",
    documents: int = 3,
    left_out: int = 0,
    sha256: str | None = None,
    reset: str = "document",
) -> Run:
    """A finished run of a method with such losses."""
    facts = {
        "spec": dataset,
        "fingerprint": dataset,
        "documents": documents,
        "vocabulary": VOCABULARY,
        "max_tokens": LENGTH,
    }
    manifest = make_manifest(spec, dataset=facts, protocol=PROTOCOL | {"reset": reset})
    with RunWriter.create(group, manifest) as writer:
        readers = best_readers(dataset, documents, LENGTH, VOCABULARY)
        for index, reader in enumerate(readers):
            losses = lose(index, reader.knowing, reader.learning)[left_out:].astype(np.float32)
            sha = sha256 or reader.sha256
            row = Row(f"it/{index}", index, "done", len(losses), 0, 0, seconds=1.0, sha256=sha)
            writer.append(row, losses)
        writer.finish({"status": "complete", "reason": None, **COSTS})
    return load_run(writer.path)
