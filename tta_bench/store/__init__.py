"""Stored runs: a folder each, written as the documents end and readable at any moment.

    results/GROUP/METHOD-KEY/manifest.json       what the run is made of, written first
                             rows.jsonl          one line a document, appended as it ends
                             nll/00000.npz       float32 losses of its tokens, in nats (optional)
                             summary.json        how it ended and what it cost, written last

A folder without summary.json is an unfinished run and reads as one.
"""

from tta_bench.store.groups import RESULTS, create_group, find_runs, short_name
from tta_bench.store.reader import Run, load_group, load_run
from tta_bench.store.rows import Row
from tta_bench.store.writer import RunWriter

__all__ = [
    "RESULTS",
    "Row",
    "Run",
    "RunWriter",
    "create_group",
    "find_runs",
    "load_group",
    "load_run",
    "short_name",
]
