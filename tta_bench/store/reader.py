"""Reads stored runs; damaged files raise an error that names them and are never misread."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

from tta_bench.errors import BenchError, UsageError
from tta_bench.store.files import read_json, read_lines, unsealed
from tta_bench.store.manifest import READABLE_SCHEMAS, SCHEMA_VERSION
from tta_bench.store.portion import SHARD, is_stamp
from tta_bench.store.quick_rows import quick_rows
from tta_bench.store.rows import LARGEST, Row
from tta_bench.store.run import COSTS, Run
from tta_bench.store.sessions import SESSIONS, join_sessions, read_events

_SECTIONS = ("model", "dataset", "method", "protocol")


def load_run(path: Path | str) -> Run:
    """Reads the run in a folder.

    Raises:
        BenchError: a file is damaged or has a newer schema; the message names it.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    sealed = manifest["schema_version"] >= 2
    rows, warnings = read_rows(folder / "rows.jsonl", sealed)
    summary: dict[str, Any] = {}
    if (folder / "summary.json").exists():
        summary, checked = read_json(folder / "summary.json")
        if sealed and not checked and summary.get("schema_version") != 1:
            raise BenchError(f"{folder / 'summary.json'} is damaged: it has no checksum.")
        _check_summary(summary, rows, folder)
    events, more = read_events(folder / SESSIONS)
    warnings += more
    sessions = tuple(join_sessions(events, rows))
    if len({json.dumps(session.get("device"), sort_keys=True) for session in sessions}) > 1:
        warnings.append(
            "the run was read on several devices: times and speed are for all of them together"
        )
    ordered = tuple(sorted(rows, key=attrgetter("index")))
    return Run(folder, manifest, ordered, summary, tuple(warnings), sessions)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads and checks the manifest in a run's folder.

    Raises:
        BenchError: it is missing, damaged, or has a schema that this version does not know.
    """
    path = folder / "manifest.json"
    manifest, checked = read_json(path)
    _check_manifest(manifest, path)
    if manifest["schema_version"] >= 2 and not checked:
        raise BenchError(f"{path} is damaged: it has no checksum.")
    return manifest


def load_group(path: Path | str) -> list[Run]:
    """Reads the runs of a group in the order of their start; a single run counts as a group.

    Raises:
        UsageError: the folder contains no run.
        BenchError: a file is damaged.
    """
    folder = Path(path)
    if (folder / "manifest.json").exists():
        return [load_run(folder)]
    runs = [load_run(file.parent) for file in sorted(folder.glob("*/manifest.json"))]
    if not runs:
        raise UsageError(
            f"{folder} holds no run: neither it nor its subfolders contain a manifest.json."
        )
    return sorted(runs, key=lambda run: (str(run.manifest.get("created")), run.path.name))


def _check_manifest(manifest: dict[str, Any], path: Path) -> None:
    version = manifest.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BenchError(f"{path} is damaged: it has no schema_version.")
    if version not in READABLE_SCHEMAS:
        raise BenchError(
            f"{path} has schema {version}; this tta-bench reads schemas up to {SCHEMA_VERSION}, so "
            "read it with the version that wrote it."
        )
    for name in _SECTIONS:
        if not isinstance(manifest.get(name), dict):
            raise BenchError(f"{path} is damaged: it lacks the section '{name}'.")
    method = manifest["method"]
    if not all(isinstance(method.get(name), str) for name in ("name", "spec")):
        raise BenchError(f"{path} is damaged: its method has no name and spec.")
    if not isinstance(manifest.get("key"), str):
        raise BenchError(f"{path} is damaged: it has no key.")
    if not is_stamp(manifest.get(SHARD)):
        raise BenchError(f"{path} is damaged: it does not say which shard it is.")


def _check_summary(summary: dict[str, Any], rows: list[Row], folder: Path) -> None:
    path = folder / "summary.json"
    if not isinstance(summary.get("status"), str):
        raise BenchError(f"{path} is damaged: it has no status.")
    for name in COSTS:
        value = summary.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and abs(value) < LARGEST):
            raise BenchError(f"{path} is damaged: its '{name}' is not a number.")
    counted = summary.get("documents")
    if counted is not None and counted != Counter(row.status for row in rows):
        raise BenchError(
            f"{folder / 'rows.jsonl'} is damaged: its rows are not those counted in {path.name}."
        )


def read_rows(path: Path, checked: bool = False) -> tuple[list[Row], list[str]]:
    """The rows and warnings; a last line that a crash cut short is left out.

    Args:
        path: the file rows.jsonl.
        checked: whether every row must have a checksum, as in schema 2.

    Raises:
        BenchError: the file is damaged.
    """
    lines, last = read_lines(path)
    with _not_collecting():
        rows = [
            row or _row(line, path, number, checked)
            for number, (row, line) in enumerate(zip(quick_rows(lines), lines, strict=True), 1)
        ]
    warnings = []
    if last:
        try:
            rows.append(_row(last, path, len(lines) + 1, checked))
        except BenchError:
            warnings.append(f"the last line of {path} was cut short by a crash and is left out")
    for name in ("key", "index"):
        of_row = attrgetter(name)
        if len(set(map(of_row, rows))) < len(rows):
            repeated = [x for x, n in Counter(map(of_row, rows)).items() if n > 1]
            raise BenchError(f"{path} is damaged: it has two rows for the document {repeated[0]}.")
    return rows, warnings


@contextmanager
def _not_collecting() -> Iterator[None]:
    """Puts off the collection of cycles while many objects are made that are in none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _row(line: bytes, path: Path, number: int, checked: bool) -> Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is damaged in line {number}: it is not valid JSON.") from error
    try:
        row = Row.from_dict(values)
        if not unsealed(values)[1] and checked:
            raise ValueError("it has no checksum")
    except ValueError as error:
        raise BenchError(f"{path} is damaged in line {number}: {error}.") from error
    return row
