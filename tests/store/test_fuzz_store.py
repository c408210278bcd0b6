"""Stored runs with damaged or arbitrary files: a sentence at worst, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import JSON, damaged, fuzzed, one_sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import slow
from stored_runs import make_row, store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.errors import BenchError
from tta_bench.evaluation.rerun import suite_of
from tta_bench.store import is_whole, load_group, load_run
from tta_bench.store.catalog import list_runs
from tta_bench.store.files import sealed, unsealed
from tta_bench.store.frame import load_results
from tta_bench.tables import document_tables, summary_tables

FILES = ("manifest.json", "rows.jsonl", "summary.json", "sessions.jsonl")


@pytest.fixture(scope="module", params=[1, 2], ids=["schema 1", "schema 2"])
def run_files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The files of a small run, by name; those of schema 1 have no checksum."""
    group = tmp_path_factory.mktemp("group")
    extra = (make_row(2, "diverged", reason="the loss of token 7 is nan"),)
    run = store_run(group, documents=2, extra=extra)
    if request.param == 1:
        for name in ("manifest.json", "summary.json"):
            bare, _ = unsealed(json.loads((run.path / name).read_text()))
            (run.path / name).write_text(json.dumps(bare | {"schema_version": 1}))
        rows = (run.path / "rows.jsonl").read_text().splitlines()
        bare_rows = [json.dumps(unsealed(json.loads(row))[0]) + "\n" for row in rows]
        (run.path / "rows.jsonl").write_text("".join(bare_rows))
        (run.path / "sessions.jsonl").unlink()
    return {path.name: path.read_bytes() for path in run.path.iterdir() if path.name in FILES}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    run = folder / "group/run"
    shutil.rmtree(folder / "group", ignore_errors=True)
    run.mkdir(parents=True)
    for name, content in files.items():
        (run / name).write_bytes(content)
    return run


def use(run: Path, manifest: dict[str, Any]) -> None:
    """Everything that reads stored runs; `manifest` is the one that was written."""
    list_runs(run.parent)
    with one_sentence():
        load_results(run)
    with one_sentence():
        runs = load_group(run.parent)
        for table in [*summary_tables(runs), *document_tables(runs)]:
            table.to_markdown()
            table.to_csv()
    for command in ("show", "compare"):
        done = CliRunner().invoke(app, [command, str(run)])
        known = isinstance(done.exception, (type(None), SystemExit, BenchError))
        assert known, (command, done.exception)
    with one_sentence():
        suite_of(load_run(run), 1).resolved_protocol()
    with one_sentence():
        is_whole(run, manifest, "failed")


@slow
@settings(fuzzed, max_examples=25)
@given(data=st.data())
def test_damaged_files_of_runs(tmp_path: Path, run_files: dict[str, bytes], data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(run_files)))
    run = write(tmp_path, run_files | {name: data.draw(damaged(run_files[name]))})
    use(run, json.loads(run_files["manifest.json"]))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in a JSON value, containers included."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from places(item, (*path, key))


@slow
@settings(fuzzed, max_examples=35)
@given(data=st.data())
def test_other_values_in_files_of_runs(
    tmp_path: Path, run_files: dict[str, bytes], data: Any
) -> None:
    """One value is replaced by any other, under a checksum that fits."""
    name = data.draw(st.sampled_from(["manifest.json", "summary.json", "rows.jsonl"]))
    lines = [unsealed(json.loads(line)) for line in _objects(name, run_files[name])]
    number = data.draw(st.integers(0, len(lines) - 1))
    value = lines[number][0]
    path = data.draw(st.sampled_from([p for p in places(value) if p]))
    target = value
    for key in path[:-1]:
        target = target[key]
    if data.draw(st.booleans()):
        target[path[-1]] = data.draw(JSON)
    elif isinstance(target, dict):
        del target[path[-1]]
    texts = [json.dumps(sealed(v) if had else v) + "\n" for v, had in lines]
    run = write(tmp_path, run_files | {name: "".join(texts).encode()})
    use(run, json.loads(run_files["manifest.json"]))


def _objects(name: str, content: bytes) -> list[bytes]:
    return content.splitlines() if name.endswith("jsonl") else [content]
