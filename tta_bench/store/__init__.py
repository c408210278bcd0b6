"""Stored runs: a folder each, written as the documents end and readable at any moment.

    results/GROUP/METHOD-KEY/manifest.json       what the run is made of, written first
                             rows.jsonl          one line a document, appended as it ends
                             nll/00000.npz       float32 losses of its tokens, in nats (optional)
                             sessions.jsonl      when it was begun or taken up, on what, how long
                             summary.json        how it ended and what it cost, written last
                             .lock               while a process writes it

A folder without summary.json is an unfinished run and reads as one. docs/results.md has the fields.
"""

from tta_bench.store.groups import (
    RESULTS,
    create_group,
    find_runs,
    group_folder,
    run_folder,
    short_name,
)
from tta_bench.store.lock import RunLock, is_locked
from tta_bench.store.reader import Run, load_group, load_run
from tta_bench.store.resume import RERUN, Rerun, is_whole
from tta_bench.store.rows import FAILED, Row
from tta_bench.store.writer import RunWriter

__all__ = [
    "FAILED",
    "RERUN",
    "RESULTS",
    "Rerun",
    "Row",
    "Run",
    "RunLock",
    "RunWriter",
    "create_group",
    "find_runs",
    "group_folder",
    "is_locked",
    "is_whole",
    "load_group",
    "load_run",
    "run_folder",
    "short_name",
]
