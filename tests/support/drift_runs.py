"""Stored runs over a stream, made without a model: one that is never reset, and a fresh one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from stored_runs import COSTS, PROTOCOL, make_manifest

from tta_bench.store import Row, Run, RunWriter, load_run

PROBE = {"spec": "book.txt", "document": "book.txt", "sha256": "ab" * 32, "tokens": 10}


def store_stream(
    group: Path,
    losses: Sequence[Sequence[float]],
    spec: str = "none",
    *,
    texts: Sequence[str] | None = None,
    probes: Sequence[float] | None = None,
    fresh_probe: float | None = None,
    reset: str = "never",
) -> Run:
    """A finished run.

    Args:
        group: where it is stored.
        losses: nats of each token of each document.
        spec: the method.
        texts: a letter for the text of each document; by default all differ.
        probes: nats of a probe of ten tokens after each document.
        fresh_probe: nats of it before the first.
        reset: as `--reset`.
    """
    facts = {"spec": "stream", "fingerprint": "f00d", "documents": len(losses)}
    manifest = make_manifest(
        spec,
        dataset=facts,
        protocol=PROTOCOL | {"reset": reset},
        probe=None if probes is None else PROBE,
    )
    with RunWriter.create(group, manifest) as writer:
        for index, values in enumerate(losses):
            text = f"{index:x}" if texts is None else texts[index]
            row = Row(f"{index}.txt", index, "done", len(values), 0, 0, sha256=text * 64)
            probe = None if probes is None else probes[index]
            writer.append(
                Row(**vars(row) | {"probe_nll": probe}), np.array(values, dtype=np.float32)
            )
        told = {"probe_tokens": 10, "probe_fresh_nll": fresh_probe, "probe_seconds": 1.0}
        costs = COSTS | (told if probes is not None else {})
        writer.finish({"status": "complete", "reason": None, **costs})
    return load_run(writer.path)
