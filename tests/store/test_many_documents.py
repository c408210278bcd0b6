"""100,000 documents in a run and 200 methods in a group, within limits of CPU time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from command import ENVIRONMENT
from slow import slow
from stored_runs import COSTS, make_losses, make_manifest, make_row

from tta_bench.store import Row, RunWriter, load_run, run_folder
from tta_bench.store.files import sealed, to_json
from tta_bench.store.sessions import session_end, session_start, to_lines

MANY = 100_000
FACTOR = 3
"""How much slower a machine may be than the one whose figures docs/scale.md has."""


def written_at_once(group: Path, spec: str, documents: int, gain: float) -> Path:
    """A finished run without its losses, as the writer leaves it but for 100,000 flushes."""
    dataset = {"spec": "builtin:stdlib", "fingerprint": "f00d", "documents": documents}
    manifest = make_manifest(spec, dataset=dataset)
    folder = run_folder(group, manifest)
    folder.mkdir(parents=True)
    rows = [row_of(index, gain) for index in range(documents)]
    summary = {"schema_version": 2, "status": "complete", "reason": None, **COSTS}
    summary["documents"] = Counter(row.status for row in rows)
    events = [session_start(0, manifest), session_end(0, summary, rows)]
    files = {
        "manifest.json": to_json(sealed(manifest), indent=2),
        "rows.jsonl": b"".join(to_json(sealed(row.to_dict())) for row in rows),
        "sessions.jsonl": to_lines(events),
        "summary.json": to_json(sealed(summary), indent=2),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def row_of(index: int, gain: float) -> Row:
    loss = 250.0 + index % 97 + 0.01 * (index % 7) * gain - gain
    return replace(
        make_row(index % 500),
        key=f"domain{index % 10}/doc{index}.py",
        index=index,
        sha256=f"{index:064x}",
        nll=loss,
        nll_file=f"nll/{index:05d}.npz",
        nll_sha256=f"{index:064x}",
    )


def cpu_seconds(*words: str) -> float:
    """CPU time of `tta-bench WORDS` in a process of its own, its start included."""
    code = (
        "import atexit, sys, time; from tta_bench.cli.main import run;"
        "atexit.register(lambda: print(time.process_time(), file=sys.stderr)); run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | ENVIRONMENT,
    )
    return float(done.stderr.split()[-1])


@slow
@pytest.mark.parametrize(("methods", "documents"), [(1, MANY), (200, 100)])
def test_listing_showing_and_comparing_stay_under_three_seconds(
    tmp_path: Path, methods: int, documents: int
) -> None:
    for number in range(methods):
        spec = f"dynamic-eval:lr={number / 1000}" if number else "none"
        written_at_once(tmp_path / "group", spec, documents, 0.1 * number)
    for command in ("runs", "show", "compare"):
        took = cpu_seconds(command, "group", "--results", str(tmp_path))
        assert took < 3 * FACTOR, f"{command} took {took:.1f} CPU seconds"


@slow
def test_reading_is_linear(tmp_path: Path) -> None:
    took = []
    for documents in (MANY // 10, MANY):
        folder = written_at_once(tmp_path, f"none:n={documents}", documents, 0.0)
        start = time.process_time()
        assert len(load_run(folder).rows) == documents
        took.append(time.process_time() - start)
    assert took[1] < 30 * took[0]


def test_a_row_costs_the_same_however_many_there_are(tmp_path: Path) -> None:
    """What is written beside the row does not grow, and nothing is held but indices."""
    with RunWriter.create(tmp_path, make_manifest()) as writer:
        sizes = []
        for index in range(6):
            before = {path: path.stat().st_mtime_ns for path in writer.path.iterdir()}
            writer.append(make_row(index), make_losses(index))
            after = {path: path.stat().st_mtime_ns for path in writer.path.iterdir()}
            sizes.append({path.name for path in after if after[path] != before.get(path)})
        assert sizes == [{"rows.jsonl", "nll"}] * 6
        held = [v for v in vars(writer).values() if isinstance(v, (set, list, dict)) and v]
        assert all(not isinstance(item, Row) for values in held for item in values)
        writer.finish({"status": "complete"} | COSTS)
    assert len(load_run(writer.path).rows) == 6
