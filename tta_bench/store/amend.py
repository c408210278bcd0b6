"""Adds what is found out about a run after it has begun to its manifest or its summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tta_bench.errors import UsageError
from tta_bench.store.files import sealed, to_json, write_atomically
from tta_bench.store.lock import RunLock
from tta_bench.store.reader import load_run, read_manifest


def amend_summary(path: Path, facts: Mapping[str, Any]) -> None:
    """Puts facts into the summary of a finished run, in place of those of the same names.

    Args:
        path: the run's folder.
        facts: names and values in the types of JSON.

    Raises:
        UsageError: the run is not finished, or another process is writing it.
        BenchError: the folder cannot be written.
    """
    lock = RunLock(path)
    try:
        summary = load_run(path).summary
        if not summary:
            raise UsageError(f"{path} is not finished, so that nothing can be added to it.")
        write_atomically(path / "summary.json", to_json(sealed({**summary, **facts}), indent=2))
    finally:
        lock.release()


def amend_manifest(path: Path, facts: Mapping[str, Any]) -> None:
    """Puts facts that no number depends on into the manifest of a run, in place of those of the
    same names; its key stays.

    Args:
        path: the run's folder.
        facts: names and values in the types of JSON.

    Raises:
        UsageError: another process is writing the run.
        BenchError: the manifest is damaged, or the folder cannot be written.
    """
    lock = RunLock(path)
    try:
        manifest = read_manifest(path)
        if any(manifest.get(name) != value for name, value in facts.items()):
            whole = to_json(sealed({**manifest, **facts}), indent=2)
            write_atomically(path / "manifest.json", whole)
    finally:
        lock.release()
