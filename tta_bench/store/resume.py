"""Which rows of a stored run are kept when the same run is requested again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, get_args

from tta_bench.errors import BenchError, UsageError
from tta_bench.store.portion import SHARD, documents_of
from tta_bench.store.reader import load_run
from tta_bench.store.rows import FAILED, Row
from tta_bench.store.run import UNFINISHED, Run, nll_file

Rerun = Literal["missing", "failed", "all"]
RERUN: tuple[str, ...] = get_args(Rerun)
NOT_ENDED = (UNFINISHED, "interrupted")


def load_same(path: Path, manifest: dict[str, Any]) -> Run:
    """Reads the stored run in a folder, which must be the one that `manifest` describes.

    Raises:
        UsageError: the folder contains another run.
        BenchError: the run is damaged.
    """
    try:
        run = load_run(path)
    except BenchError as error:
        raise BenchError(f"{error} --rerun all starts this run again.") from error
    if run.manifest["key"] != manifest["key"]:
        raise UsageError(
            f"{path} holds another run (its key is {run.manifest['key']}, not {manifest['key']}); "
            "give another --name."
        )
    if run.manifest.get(SHARD) != manifest.get(SHARD):
        raise UsageError(
            f"{path} holds a shard that was cut in another way, for other --lanes or another "
            "device; give the same, or another --name."
        )
    return run


def rows_to_keep(run: Run, rerun: Rerun) -> tuple[list[Row], list[str]]:
    """The rows that are kept, and notes about damaged files.

    If the method is never reset, the losses of a document depend on all documents before it:
    unless every document is present, no row is kept.
    """
    if rerun == "all":
        return [], []
    rows, notes = [], list(run.warnings)
    for row in run.rows:
        if damaged := damaged_vector(run.path, row):
            notes.append(f"{damaged} is damaged; {row.key} is read again")
        elif not (rerun == "failed" and row.status in FAILED):
            rows.append(row)
    chained = run.manifest["protocol"].get("reset") == "never"
    if chained and len(rows) != documents_of(run.manifest):
        return [], notes
    return rows, notes


def is_whole(path: Path, manifest: dict[str, Any], rerun: Rerun) -> bool:
    """Whether the run exists with every document, so that nothing remains to be done.

    Raises:
        BenchError: the run is damaged, or the folder contains another run.
    """
    if rerun == "all" or not (path / "manifest.json").exists():
        return False
    run = load_same(path, manifest)
    kept, _ = rows_to_keep(run, rerun)
    return run.status not in NOT_ENDED and len(kept) == documents_of(run.manifest)


def damaged_vector(folder: Path, row: Row) -> Path | None:
    """The file of a row's losses if it has changed since it was written, else None.

    A missing file was not published, which is no damage.
    """
    if row.nll_file is None or row.nll_sha256 is None:
        return None
    path = folder / nll_file(row.index)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return path
    return None if hashlib.sha256(content).hexdigest() == row.nll_sha256 else path
