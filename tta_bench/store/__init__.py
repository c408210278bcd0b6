"""Stored runs: one folder per run, written as documents end and readable at any time.

    results/GROUP/METHOD-KEY/manifest.json       what the run is made of, written first
                             rows.jsonl          one line per document, appended when it ends
                             nll/00000.npz       float32 losses of its tokens, in nats (optional)
                             sessions.jsonl      when the run started and resumed, and on what
                             summary.json        how it ended and what it cost, written last
                             .lock               present while a process writes the run

A folder without summary.json is read as an unfinished run. docs/results.md describes the fields.
"""

from tta_bench.store.amend import amend_manifest, amend_summary
from tta_bench.store.done import Done
from tta_bench.store.groups import (
    RESULTS,
    create_group,
    find_runs,
    group_folder,
    run_folder,
    short_name,
)
from tta_bench.store.lock import RunLock, is_locked
from tta_bench.store.portion import Portion, portion_of
from tta_bench.store.reader import load_group, load_run
from tta_bench.store.resume import RERUN, Rerun, is_whole
from tta_bench.store.rows import FAILED, Row
from tta_bench.store.run import Run
from tta_bench.store.writer import RunWriter

__all__ = [
    "FAILED",
    "RERUN",
    "RESULTS",
    "Done",
    "Portion",
    "Rerun",
    "Row",
    "Run",
    "RunLock",
    "RunWriter",
    "amend_manifest",
    "amend_summary",
    "create_group",
    "find_runs",
    "group_folder",
    "is_locked",
    "is_whole",
    "load_group",
    "load_run",
    "portion_of",
    "run_folder",
    "short_name",
]
