"""The cache of tokenised documents on disk: a folder with an Arrow file and its totals.

Nothing in it is believed. The totals hold the hash of the Arrow file, which is compared when a
cache is opened; every row holds its own, which is compared when a document is read, since the file
is mapped into memory and may change under a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tta_bench.documents.document import Asked, TokenizedDocument
from tta_bench.documents.encode import Tally
from tta_bench.errors import ChangedError, DocumentError
from tta_bench.files import complete_folder, file_sha256

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
    tally: Tally  # of documents whose tokens are odd


def open_cache(folder: Path) -> tuple[Any, Totals] | None:
    """Rows (a `datasets.Dataset` of Arrow tables) and totals; None unless all is as it was written.

    The whole file is read for its hash: a few seconds for a gigabyte, as for the texts themselves.
    """
    try:
        stored = json.loads((folder / _TOTALS).read_text())
        values = stored["totals"]
        totals = Totals(**values | {"tally": Tally(**values["tally"])})
        # Before Arrow sees the file: offsets that lead anywhere would end the process.
        if stored["sha256"] != _seal(totals, folder / _ARROW):
            return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    from datasets import Dataset

    return Dataset.from_file(str(folder / _ARROW)).with_format("arrow"), totals


def read_row(rows: Any, index: int) -> TokenizedDocument:
    """A document of an open cache, copied out of it.

    Raises:
        ChangedError: it is not what was written.
    """
    try:
        row = rows[index]
        row.validate(full=True)  # or offsets that have changed lead anywhere
        # A copy, which nothing outside this process can change any more.
        ids = row["token_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=True).copy()
        ids.flags.writeable = False
        names = ("key", "n_bytes", "n_words", "sha256")
        asked = row["asked"][0].as_py()
        document = TokenizedDocument(
            token_ids=ids,
            asked=None if asked is None else _asked(json.loads(asked)),
            **{name: row[name][0].as_py() for name in names},
        )
        unchanged = row["digest"][0].as_py() == _digest(document)
    except ValueError:  # what was text is no UTF-8, or offsets lead out of the file
        unchanged = False
    if not unchanged:
        raise ChangedError(
            f"The cache of token ids was changed while it was read, at document {index}: run the "
            "command again, which makes it anew."
        )
    return document


def write_cache(folder: Path, documents: Iterable[TokenizedDocument]) -> None:
    """Writes the documents as they come; the folder gets its name only when all are in it.

    If two processes write the same folder, the first to finish wins.

    Raises:
        DocumentError: the disk is full or the folder cannot be written.
    """
    try:
        with complete_folder(folder, lambda path: open_cache(path) is not None) as draft:
            totals = _write_arrow(draft / _ARROW, documents)
            seal = _seal(totals, draft / _ARROW)
            (draft / _TOTALS).write_text(json.dumps({"totals": asdict(totals), "sha256": seal}))
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
            ("asked", pa.string()),
            ("digest", pa.binary()),
        ]
    )
    digest, tokens, longest, tally = hashlib.sha256(), 0, 0, Tally()
    with ArrowWriter(features=Features.from_arrow_schema(schema), path=str(path)) as writer:
        for batch in _batches(documents):
            for document in batch:
                tally.add(document.oddities)
                digest.update(bytes.fromhex(document.sha256))
                digest.update(_ids_digest(document))
            lengths = [len(document.token_ids) for document in batch]
            ids = pa.array(np.concatenate([document.token_ids for document in batch]))
            columns = [
                pa.array([document.key for document in batch]),
                pa.ListArray.from_arrays(pa.array([0, *np.cumsum(lengths)], pa.int32()), ids),
                pa.array([document.n_bytes for document in batch], pa.int64()),
                pa.array([document.n_words for document in batch], pa.int64()),
                pa.array([document.sha256 for document in batch]),
                pa.array([_asked_json(document) for document in batch], pa.string()),
                pa.array([_digest(document) for document in batch], pa.binary()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            tokens += sum(lengths)
            longest = max(longest, *lengths)
        writer.finalize()
    return Totals(digest.hexdigest(), tokens, longest, tally)


def _seal(totals: Totals, arrow: Path) -> str:
    """SHA-256 (hex) of the totals and of the file that they belong to."""
    parts = [asdict(totals), file_sha256(arrow)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _digest(document: TokenizedDocument) -> bytes:
    """Hash of everything that is stored of a document."""
    parts = [document.key, document.n_bytes, document.n_words, document.sha256]
    parts.append(_asked_json(document))
    return hashlib.sha256(json.dumps(parts).encode() + _ids_digest(document)).digest()


def _asked_json(document: TokenizedDocument) -> str | None:
    return None if document.asked is None else json.dumps(asdict(document.asked))


def _asked(values: Any) -> Asked:
    return Asked(values["planted"], tuple(map(tuple, values["answers"])))


def _ids_digest(document: TokenizedDocument) -> bytes:
    return hashlib.sha256(document.token_ids.astype("<i4").tobytes()).digest()


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
