"""Reads stored runs; damaged files raise an error that names them and are never misread."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError, UsageError
from tta_bench.store.files import read_json, read_lines, unsealed
from tta_bench.store.manifest import READABLE_SCHEMAS, SCHEMA_VERSION
from tta_bench.store.rows import FAILED, LARGEST, Row
from tta_bench.store.sessions import SESSIONS, join_sessions, read_events

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNFINISHED = "unfinished"
_SECTIONS = ("model", "dataset", "method", "protocol")
COSTS = (
    "flops_per_token",
    "flops_per_token_counted",
    "tokens_per_second",
    "step_seconds_median",
    "step_seconds_p90",
    "step_tokens_median",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "peak_process_bytes",
    "state_bytes_per_lane",
    "offline_seconds",
    "offline_flops",
    "seconds",
    "lanes",
)


@dataclass(frozen=True, eq=False)
class Run:
    """One stored run.

    Attributes:
        path: the run's folder.
        manifest: what the run is made of (`tta_bench.store.manifest`).
        rows: one row per document, in the order of the dataset.
        summary: how the run ended and what it cost; empty for an unfinished run.
        warnings: problems that were found, and corrected, while reading.
        sessions: when, on what and for how long the run was read; empty in runs of schema 1.
    """

    path: Path
    manifest: dict[str, Any]
    rows: tuple[Row, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    sessions: tuple[dict[str, Any], ...] = ()

    @property
    def spec(self) -> str:
        """The method with its parameters, as `--method` takes it."""
        return str(self.manifest["method"]["spec"])

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.manifest["method"]["name"])

    @property
    def status(self) -> str:
        """`complete`, or how the run ended early; `unfinished` without a summary."""
        return str(self.summary.get("status", UNFINISHED))

    @property
    def failed(self) -> bool:
        """Whether memory ran out, the loss diverged or the method raised an error."""
        return self.status in FAILED

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table must know about this run, one sentence each."""
        notes = self.summary.get("notes")
        return tuple(map(str, notes)) if isinstance(notes, list) else ()

    @property
    def lanes(self) -> int | None:
        """Number of lanes that were used, else that was asked for; None if unknown."""
        for lanes in (self.summary.get("lanes"), self.manifest.get("lanes")):
            if isinstance(lanes, int) and not isinstance(lanes, bool) and 0 < lanes < 2**63:
                return lanes
        return None

    def cost(self, name: str) -> float | None:
        """A cost in the summary; None if unknown."""
        return self.summary.get(name)

    def nll(self, row: Row) -> NDArray[np.float32]:
        """[tokens] Losses of a document's tokens, in nats.

        Raises:
            BenchError: the losses were not stored or published, or the file is damaged.
        """
        import numpy as np

        path = self.path / f"nll/{row.index:05d}.npz"
        if row.nll is None or not path.is_file():
            raise BenchError(
                f"{path} does not exist: the losses of {row.key} were not stored or not published."
            )
        try:
            content = path.read_bytes()
            if row.nll_sha256 and hashlib.sha256(content).hexdigest() != row.nll_sha256:
                raise BenchError(f"{path} is damaged: its hash differs from the one in rows.jsonl.")
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                vector = archive["nll"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BenchError(f"{path} is damaged: {type(error).__name__}.") from error
        if vector.dtype != np.float32 or vector.shape != (row.tokens,):
            raise BenchError(
                f"{path} is damaged: it is not a float32 vector of {row.tokens} losses."
            )
        if not math.isclose(vector.sum(dtype=np.float64), row.nll, rel_tol=1e-9, abs_tol=1e-9):
            raise BenchError(f"{path} is damaged: its sum differs from the one in rows.jsonl.")
        return vector


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
    ordered = tuple(sorted(rows, key=lambda row: row.index))
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
    rows = [_row(line, path, number, checked) for number, line in enumerate(lines, start=1)]
    warnings = []
    if last:
        try:
            rows.append(_row(last, path, len(lines) + 1, checked))
        except BenchError:
            warnings.append(f"the last line of {path} was cut short by a crash and is left out")
    for name in ("key", "index"):
        repeated = [x for x, n in Counter(getattr(row, name) for row in rows).items() if n > 1]
        if repeated:
            raise BenchError(f"{path} is damaged: it has two rows for the document {repeated[0]}.")
    return rows, warnings


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
