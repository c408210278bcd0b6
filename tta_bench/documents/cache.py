"""The cache of tokenised documents on disk: a folder with an Arrow file and its totals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tta_bench.documents.document import TokenizedDocument
from tta_bench.errors import DocumentError
from tta_bench.files import complete_folder

_ARROW = "documents.arrow"
_TOTALS = "totals.json"
# A batch is written once it has this many tokens or documents, which is a few megabytes.
_BATCH_TOKENS = 1 << 20
_BATCH_DOCUMENTS = 1000


@dataclass(frozen=True)
class Totals:
    """Totals over all documents."""

    fingerprint: str  # SHA-256 (hex) over the text hashes and token ids of all documents, in order
    tokens: int
    longest: int  # tokens in the longest document


def open_cache(folder: Path) -> tuple[Any, Totals] | None:
    """Rows (a `datasets.Dataset` of Arrow tables) and totals; None if the cache is incomplete."""
    try:
        totals = Totals(**json.loads((folder / _TOTALS).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if not (folder / _ARROW).is_file():
        return None
    from datasets import Dataset

    return Dataset.from_file(str(folder / _ARROW)).with_format("arrow"), totals


def write_cache(folder: Path, documents: Iterable[TokenizedDocument]) -> None:
    """Writes the documents as they come; the folder gets its name only when all are in it.

    If two processes write the same folder, the first to finish wins.

    Raises:
        DocumentError: the disk is full or the folder cannot be written.
    """
    try:
        with complete_folder(folder, lambda path: open_cache(path) is not None) as draft:
            totals = _write_arrow(draft / _ARROW, documents)
            (draft / _TOTALS).write_text(json.dumps(asdict(totals)))
    except OSError as error:
        reason = error.strerror or str(error)
        raise DocumentError(
            f"The tokenised documents cannot be written to {folder.parent} ({reason}): "
            "free some space, or set TTA_BENCH_CACHE to another folder."
        ) from error


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
