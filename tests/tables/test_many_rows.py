"""Tables of many documents and methods: what is made only where it is shown."""

from __future__ import annotations

import json
from pathlib import Path

from stored_runs import make_row, store_run

from tta_bench.store import load_group
from tta_bench.store.catalog import list_runs, remove_run
from tta_bench.tables.compare import compare_tables
from tta_bench.tables.slices import slice_tables


def test_what_people_see_needs_no_random_numbers(tmp_path: Path) -> None:
    for gain, spec in enumerate(("none", "dynamic-eval", "neural-cache")):
        store_run(tmp_path, spec, gain=0.01 * gain, documents=41)
    runs = load_group(tmp_path)
    (whole,), (shown,) = compare_tables(runs), compare_tables(runs, resampled=False)
    assert whole.to_markdown() == shown.to_markdown()
    assert "bootstrap" in whole.to_markdown()
    assert [row["p_sign_flip"] for row in shown.rows] == [None] * 3
    assert None not in [row["delta_bootstrap_ci95_low"] for row in whole.rows[1:]]


def test_rows_of_documents_are_in_json_as_ever(tmp_path: Path) -> None:
    store_run(tmp_path, extra=(make_row(4, "oom", reason="no memory"),))
    (table,) = compare_tables(load_group(tmp_path))
    (row,) = json.loads(json.dumps(table.to_json()))["rows"]
    assert [document["status"] for document in row["documents"]] == ["done"] * 4 + ["oom"]


def test_a_table_of_the_first_documents_says_so(tmp_path: Path) -> None:
    store_run(tmp_path, "none", documents=5)
    store_run(tmp_path, "dynamic-eval", documents=5)
    runs = load_group(tmp_path)
    (whole,) = slice_tables(runs, "document")
    (first,) = slice_tables(runs, "document", most=3)
    assert first.rows == whole.rows[:3]
    assert first.notes[-1] == "the first 3 of 10 rows; `tta-bench compare --by document` has all"
    assert not any("the first" in note for note in whole.notes)
    (every,) = slice_tables(runs, "document", most=10)
    assert (every.rows, every.notes) == (whole.rows, whole.notes)


def test_the_size_of_a_run_is_that_of_its_own_files(tmp_path: Path) -> None:
    run = store_run(tmp_path, documents=3)
    own = [path for path in run.path.rglob("*") if path.is_file()]
    draft = run.path / "nll/.00000.npz.1.part"
    draft.write_bytes(b"12345")
    for stranger in ("nll/notes.txt", "nll/x.npz", "notes.txt"):
        (run.path / stranger).write_bytes(b"not the run's")
    (entry,) = list_runs(tmp_path)
    assert entry.size_bytes == sum(path.stat().st_size for path in own) + 5
    remove_run(run.path)
    left = sorted(path.name for path in run.path.rglob("*") if path.is_file())
    assert left == ["notes.txt", "notes.txt", "x.npz"]
