"""Writes a run: the manifest, a row when a document ends, and the summary."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError, StorageError, UsageError
from tta_bench.store.environment import utc_now
from tta_bench.store.files import (
    append_line,
    explained,
    sealed,
    sync_folder,
    to_json,
    write_atomically,
)
from tta_bench.store.groups import run_folder
from tta_bench.store.lock import RunLock
from tta_bench.store.manifest import SCHEMA_VERSION
from tta_bench.store.reader import read_rows
from tta_bench.store.resume import Rerun, load_same, rows_to_keep
from tta_bench.store.rows import Row
from tta_bench.store.run import Run, nll_file
from tta_bench.store.sessions import (
    SESSIONS,
    join_sessions,
    read_events,
    session_end,
    session_start,
    to_lines,
    total_costs,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class RunWriter:
    """A run that is being written: a context manager that records how the run ended.

        with RunWriter.create(group, manifest) as run:
            run.append(Row(...), nll)
            run.finish({"status": "complete", ...})

    Leaving the block with an exception writes a summary with status `interrupted` (Ctrl-C) or
    `error`. Leaving it without `finish` writes no summary, and the run stays unfinished. Inside the
    block, no other process can write the run.

    Attributes:
        path: the run's folder.
        kept: rows of earlier sessions that are kept, by the index of their document.
        notes: notes about damaged files of earlier sessions.
        session: number of this session, from 0.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], rerun: Rerun | None):
        """Use `create` or `resume` instead; if `rerun` is None, the run must not exist yet."""
        self.path = path
        self.finished = False
        self.kept: dict[int, Row] = {}
        self.notes: list[str] = []
        self._rows = path / "rows.jsonl"
        # By index alone, so that memory stays flat however many documents there are.
        self._appended: set[int] = set()
        self._with_losses: set[int] = set()
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(path)
        try:
            self.session = self._begin(manifest, rerun)
            with explained(self._rows):
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._descriptor = os.open(self._rows, flags, 0o666)
                sync_folder(path)
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def create(cls, group: Path, manifest: dict[str, Any]) -> RunWriter:
        """Creates the run's folder in `group` and writes the manifest.

        Raises:
            UsageError: the group already has this run, or another process is writing it.
            BenchError: the folder cannot be written.
        """
        return cls(run_folder(group, manifest), manifest, None)

    @classmethod
    def resume(cls, group: Path, manifest: dict[str, Any], rerun: Rerun = "missing") -> RunWriter:
        """Resumes the run where it ended, or creates it if it does not exist.

        Raises:
            UsageError: another process is writing the run, or its folder has another run.
            BenchError: the run is damaged, or the folder cannot be written.
        """
        return cls(run_folder(group, manifest), manifest, rerun)

    def _begin(self, manifest: dict[str, Any], rerun: Rerun | None) -> int:
        """Prepares the files, writes the start of the session and returns its number."""
        self._drop_drafts()
        there = (self.path / "manifest.json").exists()
        if there and rerun is None:
            raise UsageError(
                f"{self.path} already holds this run (same model, method, documents and protocol); "
                "give another --name, or remove that folder to run it again."
            )
        if there and rerun != "all":
            return self._take_up(load_same(self.path, manifest), manifest, rerun or "missing")
        # First delete what an earlier run or a crash has left, beginning with the summary.
        with explained(self.path):
            for name in ("summary.json", "rows.jsonl", SESSIONS):
                (self.path / name).unlink(missing_ok=True)
            for vector in (self.path / "nll").glob("*.npz"):
                vector.unlink()
            sync_folder(self.path)
        write_atomically(self.path / "manifest.json", to_json(sealed(manifest), indent=2))
        self.manifest = manifest
        write_atomically(self.path / SESSIONS, to_lines([session_start(0, manifest)]))
        return 0

    def _take_up(self, run: Run, manifest: dict[str, Any], rerun: Rerun) -> int:
        """Drops the rows that are done again; a crash in here loses none of the others."""
        self.manifest = run.manifest
        rows, self.notes = rows_to_keep(run, rerun)
        self.kept = {row.index: row for row in rows}
        events, _ = read_events(self.path / SESSIONS)
        if not events:  # schema 1, or killed before the start of its first session was written
            events = [session_start(0, run.manifest, run.manifest.get("created"))]
            events.append(session_end(0, run.summary, run.rows, run.summary.get("ended")))
        number = 1 + max(event["session"] for event in events)
        events.append(session_start(number, manifest))
        write_atomically(self.path / SESSIONS, to_lines(events))
        with explained(self.path):
            (self.path / "summary.json").unlink(missing_ok=True)
            sync_folder(self.path)
        lines = b"".join(to_json(sealed(row.to_dict())) for row in rows)
        write_atomically(self._rows, lines)
        return number

    def _drop_drafts(self) -> None:
        """Deletes the drafts of a process that was killed before it renamed them."""
        for folder in (self.path, self.path / "nll"):
            for draft in folder.glob(".*.part"):
                with suppress(OSError):
                    draft.unlink()

    def append(
        self,
        row: Row,
        nll: NDArray[np.float32] | None = None,
        top1: NDArray[np.bool_] | None = None,
    ) -> Row:
        """Stores the row of a document, flushed to disk.

        Args:
            row: the row; `session` is filled in, and with vectors also `nll`, `nll_file`,
                `nll_sha256` and `top1`.
            nll: [tokens] losses of the document's tokens, in nats.
            top1: [tokens] whether each token was the most probable one; None where it is not
                known.

        Returns:
            The row as stored.

        Raises:
            StorageError: the disk is full or cannot be written, or the file of rows is gone.
        """
        self._check_rows()
        row = replace(row, session=self.session)
        if nll is not None:
            row = self._store_vectors(row, nll, top1)
        append_line(self._descriptor, self._rows, to_json(sealed(row.to_dict())))
        self._appended.add(row.index)
        if row.nll_file:
            self._with_losses.add(row.index)
        return row

    def _check_rows(self) -> None:
        """Raises StorageError unless the open file of rows is the one at its path."""
        try:
            there = os.path.samestat(os.fstat(self._descriptor), self._rows.stat())
        except OSError:
            there = False
        if not there:
            raise self._gone(self._rows)

    def _check_all(self, rows: list[Row]) -> None:
        """Raises StorageError unless all that was written is still there."""
        self._check_rows()
        there = {row.index for row in rows}
        if not (self.kept.keys() <= there and self._appended <= there):
            raise self._gone(self._rows)
        files = map(nll_file, sorted(self._with_losses))
        for name in chain(("manifest.json", SESSIONS), files):
            if not (self.path / name).exists():
                raise self._gone(self.path / name)

    def _gone(self, path: Path) -> StorageError:
        return StorageError(
            f"{path} was removed or changed by something else while the run was being written; run "
            "the command again, which does what is missing."
        )

    def _store_vectors(
        self, row: Row, nll: NDArray[np.float32], top1: NDArray[np.bool_] | None
    ) -> Row:
        import numpy as np

        for vector in (nll,) if top1 is None else (nll, top1):
            if vector.shape != (row.tokens,):
                have = f"{row.tokens} tokens but a vector of shape {vector.shape}"
                raise ValueError(f"{row.key}: {have}")
        losses = nll.astype(np.float32)
        memory = io.BytesIO()
        if top1 is None:
            np.savez_compressed(memory, nll=losses)
        else:
            np.savez_compressed(memory, nll=losses, top1=np.packbits(top1))
        with explained(self.path / "nll"):
            (self.path / "nll").mkdir(exist_ok=True)
        name, content = nll_file(row.index), memory.getvalue()
        write_atomically(self.path / name, content)
        return replace(
            row,
            nll=float(losses.sum(dtype=np.float64)),
            nll_file=name,
            nll_sha256=hashlib.sha256(content).hexdigest(),
            top1=None if top1 is None else int(np.count_nonzero(top1)),
        )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary: `status`, `reason` and the costs of this session.

        For a run of several sessions, times are summed and peaks are the maximum.

        Raises:
            StorageError: the disk is full or cannot be written, or files of the run are gone.
        """
        if "status" not in summary:
            raise ValueError("a summary needs a status")
        known = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in summary.items()
        }
        # Counted in the file, since Ctrl-C may come between a row and a counter kept here.
        rows = read_rows(self._rows)[0]
        self._check_all(rows)
        events, _ = read_events(self.path / SESSIONS)
        events.append(session_end(self.session, known, rows))
        write_atomically(self.path / SESSIONS, to_lines(events))
        sessions = join_sessions(events, rows)
        stored = {
            "schema_version": SCHEMA_VERSION,
            "ended": utc_now(),
            "documents": Counter(row.status for row in rows),
            **known,
            "sessions": len(sessions),
            **(total_costs(sessions) if len(sessions) > 1 else {}),
        }
        write_atomically(self.path / "summary.json", to_json(sealed(stored), indent=2))
        self.finished = True

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not self.finished:
            with suppress(BenchError):  # on a full disk the run stays unfinished
                self.finish(_broken_off_by(error))
        os.close(self._descriptor)
        self._lock.release()


def _broken_off_by(error: BaseException) -> dict[str, str]:
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "reason": "interrupted by the user"}
    reason = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
    return {"status": "error", "reason": reason.split("\n")[0]}
