"""A stored run in memory: its manifest, rows, sessions and summary."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.documents.limits import limits_as_flags
from tta_bench.errors import BenchError
from tta_bench.store.done import Done
from tta_bench.store.manifest import device_name
from tta_bench.store.rows import FAILED, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNFINISHED = "unfinished"
NPZ_HEADER = 4096
"""Most bytes of a file of losses beside losses and bits."""
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


def nll_file(index: int) -> str:
    """The file of a document's losses, relative to its run's folder."""
    return f"nll/{index:05d}.npz"


def ended_as(outcomes: Mapping[str, int], reason: str | None) -> dict[str, str | None]:
    """The status of a run by its rows, and why it is not complete, for a summary.

    Args:
        outcomes: rows of each status.
        reason: that of a document that failed.
    """
    status = next((word for word in ("oom", "error") if outcomes.get(word)), "complete")
    if status == "complete" and not outcomes.get("done"):
        status = "diverged" if outcomes.get("diverged") else "error"
        reason = reason or "no document could be read"
    return {"status": status, "reason": reason if status != "complete" else None}


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

    @property
    def device(self) -> str | None:
        """`cpu`, or `cuda NVIDIA H100`; None if unknown."""
        return device_name(self.manifest)

    @property
    def limits(self) -> str | None:
        """The limits under which the dataset was read, as `--limit 3`; None without any."""
        return limits_as_flags(self.manifest["dataset"])

    @property
    def published_words(self) -> int | None:
        """Words of the documents as they were published; None where no one did so.

        None also where not every document was read, or not every token of it: the count is of the
        whole.
        """
        dataset = self.manifest["dataset"]
        words, documents = dataset.get("words"), dataset.get("documents")
        whole = sum(count > 0 for count in self.done.words)
        known = isinstance(words, int) and not isinstance(words, bool) and words > 0
        return words if known and whole == documents == len(self.rows) else None

    @cached_property
    def done(self) -> Done:
        """The documents that are done, as columns."""
        return Done.of(self.rows)

    @cached_property
    def not_done(self) -> tuple[Row, ...]:
        """The rows of documents that were skipped or failed."""
        return tuple(row for row in self.rows if row.status != "done")

    def cost(self, name: str) -> float | None:
        """A cost in the summary; None if unknown."""
        return self.summary.get(name)

    def nll(self, row: Row) -> NDArray[np.float32]:
        """[tokens] Losses of a document's tokens, in nats.

        Raises:
            BenchError: the losses were not stored or published, or the file is damaged.
        """
        import numpy as np

        path, arrays = self._vectors(row)
        vector = arrays.get("nll")
        if vector is None or vector.dtype != np.float32 or vector.shape != (row.tokens,):
            raise BenchError(
                f"{path} is damaged: it is not a float32 vector of {row.tokens} losses."
            )
        total = row.nll or 0.0
        if not math.isclose(vector.sum(dtype=np.float64), total, rel_tol=1e-9, abs_tol=1e-9):
            raise BenchError(f"{path} is damaged: its sum differs from the one in rows.jsonl.")
        return vector

    def top1(self, row: Row) -> NDArray[np.bool_]:
        """[tokens] Whether each of a document's tokens was the most probable one.

        Raises:
            BenchError: that was not stored or published, or the file is damaged.
        """
        import numpy as np

        path, arrays = self._vectors(row)
        if row.top1 is None:
            raise BenchError(
                f"{path} holds losses alone: which tokens of {row.key} were the most probable ones "
                "was not stored; run it again with --rerun all."
            )
        bits = arrays.get("top1")
        if bits is None or bits.dtype != np.uint8 or bits.shape != (-(-row.tokens // 8),):
            raise BenchError(f"{path} is damaged: it is not a bit for each of {row.tokens} tokens.")
        vector = np.unpackbits(bits, count=row.tokens).astype(bool)
        if np.count_nonzero(vector) != row.top1:
            raise BenchError(f"{path} is damaged: its bits differ from those in rows.jsonl.")
        return vector

    def _vectors(self, row: Row) -> tuple[Path, dict[str, NDArray]]:
        """The file of a document's losses, and the arrays in it.

        Raises:
            BenchError: it was not stored or published, or is damaged.
        """
        import numpy as np

        path = self.path / nll_file(row.index)
        if row.nll is None or not path.is_file():
            raise BenchError(
                f"{path} does not exist: the losses of {row.key} were not stored or not published."
            )
        try:
            content = path.read_bytes()
            if row.nll_sha256 and hashlib.sha256(content).hexdigest() != row.nll_sha256:
                raise BenchError(f"{path} is damaged: its hash differs from the one in rows.jsonl.")
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                unpacked = sum(entry.file_size for entry in packed.infolist())
            most = 4 * row.tokens + row.tokens // 8 + NPZ_HEADER
            if unpacked > most:  # before it fills the memory
                raise BenchError(f"{path} is damaged: it unpacks to {unpacked:,} bytes.")
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return path, {name: archive[name] for name in archive.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BenchError(f"{path} is damaged: {type(error).__name__}.") from error
