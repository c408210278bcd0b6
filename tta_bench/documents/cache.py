"""The cache of tokenised documents on disk: an Arrow file and its totals, complete or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tta_bench.documents.document import TokenizedDocument
from tta_bench.errors import DocumentError

_ARROW = "documents.arrow"
_TOTALS = "totals.json"
# A batch of rows is written when it holds so many tokens or documents: a few megabytes.
_BATCH_TOKENS = 1 << 20
_BATCH_DOCUMENTS = 1000


@dataclass(frozen=True)
class Totals:
    """Figures over all documents."""

    fingerprint: str  # SHA-256 (hex) of every document's text hash and token ids, in order
    tokens: int
    longest: int  # tokens of the longest document


def open_cache(folder: Path) -> tuple[Any, Totals] | None:
    """The rows (a ``datasets.Dataset`` of Arrow tables) and totals, None if not all there."""
    try:
        totals = Totals(**json.loads((folder / _TOTALS).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if not (folder / _ARROW).is_file():
        return None
    from datasets import Dataset

    return Dataset.from_file(str(folder / _ARROW)).with_format("arrow"), totals


def write_cache(folder: Path, documents: Iterable[TokenizedDocument]) -> None:
    """Writes the documents as they come, and gives the folder its name only when all are in it.

    Of two processes that write the same folder the first to end wins; the other's work is dropped.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the rename stays on one file system and is atomic.
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder.parent) as scratch:
            complete = Path(scratch) / "complete"
            complete.mkdir()
            totals = _write_arrow(complete / _ARROW, documents)
            (complete / _TOTALS).write_text(json.dumps(asdict(totals)))
            _publish(complete, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DocumentError(
            f"The tokenised documents cannot be written to {folder.parent} ({reason}): "
            "free some space, or set TTA_BENCH_CACHE to another folder."
        ) from error


def _publish(complete: Path, folder: Path) -> None:
    if folder.exists() and open_cache(folder) is None:
        shutil.rmtree(folder)  # damaged by hand, since a write never leaves half a folder
    try:
        complete.rename(folder)
    except OSError:
        if open_cache(folder) is None:  # not because another process was faster
            raise


def _write_arrow(path: Path, documents: Iterable[TokenizedDocument]) -> Totals:
    import numpy as np
    import pyarrow as pa
    from datasets import Features
    from datasets.arrow_writer import ArrowWriter

    schema = pa.schema(
        [
            ("key", pa.string()),
            ("token_ids", pa.list_(pa.int32())),
            ("n_bytes", pa.int64()),
            ("n_words", pa.int64()),
            ("sha256", pa.string()),
        ]
    )
    digest, tokens, longest = hashlib.sha256(), 0, 0
    with ArrowWriter(features=Features.from_arrow_schema(schema), path=str(path)) as writer:
        for batch in _batches(documents):
            for document in batch:
                digest.update(bytes.fromhex(document.sha256))
                little_endian = document.token_ids.astype("<i4")
                digest.update(hashlib.sha256(little_endian.tobytes()).digest())
            lengths = [len(document.token_ids) for document in batch]
            ids = pa.array(np.concatenate([document.token_ids for document in batch]))
            columns = [
                pa.array([document.key for document in batch]),
                pa.ListArray.from_arrays(pa.array([0, *np.cumsum(lengths)], pa.int32()), ids),
                pa.array([document.n_bytes for document in batch], pa.int64()),
                pa.array([document.n_words for document in batch], pa.int64()),
                pa.array([document.sha256 for document in batch]),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            tokens += sum(lengths)
            longest = max(longest, *lengths)
        writer.finalize()
    return Totals(digest.hexdigest(), tokens, longest)


def _batches(documents: Iterable[TokenizedDocument]) -> Iterator[list[TokenizedDocument]]:
    batch: list[TokenizedDocument] = []
    tokens = 0
    for document in documents:
        batch.append(document)
        tokens += len(document.token_ids)
        if tokens >= _BATCH_TOKENS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch
