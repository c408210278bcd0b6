"""Lists stored runs, including damaged ones, and removes them."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tta_bench.errors import BenchError, UsageError
from tta_bench.store.files import explained
from tta_bench.store.lock import RunLock, is_locked
from tta_bench.store.portion import documents_of
from tta_bench.store.reader import load_run
from tta_bench.store.rows import FAILED

WRITING, DAMAGED = "writing", "damaged"
_FILES = ("summary.json", "rows.jsonl", "sessions.jsonl", "manifest.json")
_VECTOR = re.compile(r"\d{5,}\.npz")
_DRAFT = re.compile(r"\..+\.part")


@dataclass(frozen=True)
class Entry:
    """One stored run in a list.

    Attributes:
        path: the run's folder.
        method: spec of the method; None if the manifest cannot be read.
        model: name of the model; None if unknown.
        dataset: spec of the dataset; None if unknown.
        status: the status in the summary, or `unfinished`, `writing` or `damaged`.
        reason: why the run is not complete.
        done: number of documents with losses.
        failed: number of documents that ran out of memory, diverged or raised an error.
        total: number of documents in the run; None if unknown.
        age_seconds: seconds since the run was last written.
        size_bytes: size of the run's files.
    """

    path: Path
    method: str | None
    model: str | None
    dataset: str | None
    status: str
    reason: str | None
    done: int
    failed: int
    total: int | None
    age_seconds: float
    size_bytes: int


def run_folders(folder: Path) -> list[Path]:
    """The folders of runs in a folder of results, a group or a run, sorted by name."""
    found = {p.parent for depth in ("", "*/", "*/*/") for p in folder.glob(f"{depth}manifest.json")}
    return sorted(found)


def list_runs(folder: Path) -> list[Entry]:
    """The runs in a folder of results, a group or a run; the one written last comes last."""
    return sorted(map(_entry, run_folders(folder)), key=lambda entry: -entry.age_seconds)


def _entry(folder: Path) -> Entry:
    stats = [found for path in _beside(folder) if (found := _stat(path)) is not None]
    stats += [entry.stat(follow_symlinks=False) for entry in _losses(folder)]
    written = max((stat.st_mtime for stat in stats), default=time.time())
    age, size = max(0.0, time.time() - written), sum(stat.st_size for stat in stats)
    writing = is_locked(folder)
    try:
        run = load_run(folder)
    except BenchError as error:
        # A run that is being written may be between two of its files, which is no damage.
        status = WRITING if writing else DAMAGED
        return Entry(folder, None, None, None, status, str(error), 0, 0, None, age, size)
    counts = Counter(row.status for row in run.rows)
    total = documents_of(run.manifest)
    return Entry(
        path=folder,
        method=run.spec,
        model=run.manifest["model"].get("name"),
        dataset=run.manifest["dataset"].get("spec"),
        status=WRITING if writing else run.status,
        reason=run.summary.get("reason"),
        done=counts["done"],
        failed=sum(counts[status] for status in FAILED),
        total=total if isinstance(total, int) else None,
        age_seconds=age,
        size_bytes=size,
    )


def remove_run(folder: Path) -> None:
    """Deletes the files of a run, and its folder if nothing else is in it.

    Raises:
        UsageError: the folder is not a run, or another process is writing it.
        BenchError: a file cannot be deleted.
    """
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link; delete the run that it points to by its own name.")
    if not (folder / "manifest.json").exists():
        raise UsageError(f"{folder} holds no run: there is no manifest.json in it.")
    lock = RunLock(folder)
    try:
        for path in _own_files(folder):  # the manifest last: without it the folder is no run
            with explained(path):
                path.unlink(missing_ok=True)
    finally:
        lock.release()
    for path in (folder / "nll", folder):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def _own_files(folder: Path) -> list[Path]:
    """Every file of a run, its manifest last."""
    losses = sorted(entry.path for entry in _losses(folder))
    return [*map(Path, losses), *_beside(folder)]


def _beside(folder: Path) -> list[Path]:
    """The files in a run's folder, drafts that a killed process left among them."""
    drafts = [path for path in folder.glob(".*.part") if _DRAFT.fullmatch(path.name)]
    losses = folder / "nll"
    # What lies behind a link belongs to somebody else: only the link itself is the run's.
    linked = [losses] if losses.is_symlink() else []
    return [*drafts, *linked, *(folder / name for name in _FILES)]


def _losses(folder: Path) -> list[os.DirEntry[str]]:
    """Files of losses and their drafts; there may be 100,000, so no path is made of each."""
    losses = folder / "nll"
    if losses.is_symlink() or not losses.is_dir():
        return []
    with os.scandir(losses) as entries:
        return [e for e in entries if _VECTOR.fullmatch(e.name) or _DRAFT.fullmatch(e.name)]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
