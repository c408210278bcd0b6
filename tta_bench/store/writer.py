"""Writing a run: manifest, rows as documents end, summary."""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError, UsageError
from tta_bench.store.files import append_line, explained, sync_folder, to_json, write_atomically
from tta_bench.store.groups import run_folder
from tta_bench.store.reader import read_rows
from tta_bench.store.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class RunWriter:
    """One run being written. As a context manager it says in the summary how the run broke off.

        with RunWriter.create(group, manifest) as run:
            run.append(Row(...), nll)
            run.finish({"status": "complete", ...})

    Leaving the block by an exception writes a summary with status `interrupted` (Ctrl-C) or
    `error`. Leaving it without `finish` writes none: the run reads as unfinished.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]):
        self.path = path
        self.manifest = manifest
        self.finished = False
        self._rows = path / "rows.jsonl"
        with explained(self._rows):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(self._rows, flags, 0o666)
            sync_folder(path)

    @classmethod
    def create(cls, group: Path, manifest: dict[str, Any]) -> RunWriter:
        """Makes the run's folder in `group` and writes its manifest.

        Raises:
            UsageError: the group holds this run already.
            BenchError: the folder cannot be written.
        """
        path = run_folder(group, manifest)
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
        if (path / "manifest.json").exists():  # a folder without one is left of a crash: it is free
            raise UsageError(
                f"{path} holds this very run already (same model, method, documents and "
                "protocol); give another --name, or remove that folder to run it again."
            )
        write_atomically(path / "manifest.json", to_json(manifest, indent=2))
        return cls(path, manifest)

    def append(self, row: Row, nll: NDArray[np.float32] | None = None) -> Row:
        """Stores what became of a document; on disk when this returns.

        Args:
            row: its `nll` and `nll_file` are filled in if the vector is given.
            nll: [tokens] losses of its tokens, nats.

        Returns:
            The row as stored.

        Raises:
            BenchError: the disk is full or cannot be written.
        """
        if nll is not None:
            name = f"nll/{row.index:05d}.npz"
            row = replace(row, nll=self._store_vector(name, row, nll), nll_file=name)
        append_line(self._descriptor, self._rows, to_json(row.to_dict()))
        return row

    def _store_vector(self, name: str, row: Row, nll: NDArray[np.float32]) -> float:
        import numpy as np

        if nll.shape != (row.tokens,):
            raise ValueError(f"{row.key}: {row.tokens} tokens but a vector of shape {nll.shape}")
        vector = nll.astype(np.float32)
        memory = io.BytesIO()
        np.savez_compressed(memory, nll=vector)
        with explained(self.path / "nll"):
            (self.path / "nll").mkdir(exist_ok=True)
        write_atomically(self.path / name, memory.getvalue())
        return float(vector.sum(dtype=np.float64))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary: `status`, `reason` and the costs. A run has one.

        Raises:
            BenchError: the disk is full or cannot be written.
        """
        if "status" not in summary:
            raise ValueError("a summary needs a status")
        known = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in summary.items()
        }
        ended = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        stored = {
            "schema_version": self.manifest["schema_version"],
            "ended": ended,
            # Counted from the file: a Ctrl-C may fall between a row and any count kept here.
            "documents": Counter(row.status for row in read_rows(self._rows)[0]),
            **known,
        }
        write_atomically(self.path / "summary.json", to_json(stored, indent=2))
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
            with suppress(BenchError):  # a full disk: the run stays unfinished, which is true
                self.finish(_broken_off_by(error))
        os.close(self._descriptor)


def _broken_off_by(error: BaseException) -> dict[str, str]:
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "reason": "interrupted by the user"}
    reason = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
    return {"status": "error", "reason": reason.split("\n")[0]}
