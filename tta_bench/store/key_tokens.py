"""Key tokens beside the runs of a group: made once per document, used for every row.

    results/GROUP/key_tokens/longppl-512-0a1b2c3d.jsonl

The first line says by which rule and evaluator they were found and in which documents (the
fingerprint of the dataset, which covers texts and token ids); every other line is a document.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError
from tta_bench.model.identity import model_identity
from tta_bench.store.files import (
    append_line,
    explained,
    read_lines,
    sealed,
    to_json,
    unsealed,
    write_atomically,
)
from tta_bench.store.lock import RunLock
from tta_bench.store.rows import LARGEST

if TYPE_CHECKING:
    from tta_bench.store.run import Run

FOLDER = "key_tokens"
LONGPPL = "longppl"
"""The beginning of the names of all metrics over key tokens."""
SCHEMA_VERSION = 1
_LARGEST = 2**53


@dataclass(frozen=True)
class KeyDocument:
    """The key tokens of a document.

    Attributes:
        index: index of the document in the dataset.
        tokens: number of the document's tokens.
        key: places of its key tokens, rising.
        read: tokens that the evaluator read to find them.
        flops: FLOPs of that by formula.
        seconds: time that it took.
    """

    index: int
    tokens: int
    key: tuple[int, ...]
    read: int
    flops: float
    seconds: float


@dataclass(frozen=True, eq=False)
class KeyTokens:
    """The key tokens of a dataset.

    Attributes:
        header: `metric`, `rule`, `evaluator` (as a manifest describes a model), its `dtype`, and
            the `fingerprint` of the dataset.
        documents: by index.
    """

    header: Mapping[str, Any]
    documents: Mapping[int, KeyDocument]

    @property
    def evaluator(self) -> str:
        """The evaluator's name."""
        return str(self.header["evaluator"].get("name"))

    @property
    def identity(self) -> dict[str, Any]:
        """What the key tokens depend on: equal for those that must be equal."""
        return identity_of(self.header)


def identity_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """What the key tokens under a header depend on."""
    named = {name: header[name] for name in ("metric", "rule", "dtype", "fingerprint")}
    return named | {"evaluator": model_identity(header["evaluator"])}


def key_tokens_file(run: Run, metric: str) -> Path:
    """Where the key tokens of a run's documents lie: beside the run, in its group."""
    fingerprint = re.sub("[^0-9a-f]", "", str(run.manifest["dataset"].get("fingerprint")))
    return run.path.absolute().parent / FOLDER / f"{metric}-{fingerprint[:8]}.jsonl"


def stored_metrics(run: Run) -> list[str]:
    """The metrics whose key tokens are there for a run's documents."""
    end = key_tokens_file(run, "").name
    files = key_tokens_file(run, "").parent.glob(f"*{end}")
    return sorted(file.name.removesuffix(end) for file in files)


def key_tokens_of(run: Run, metric: str) -> KeyTokens | None:
    """The key tokens of a run's documents; None if there are none.

    Raises:
        BenchError: their file is damaged.
    """
    path = key_tokens_file(run, metric)
    found = read_key_tokens(path)
    if found is not None and found.header["metric"] != metric:
        raise BenchError(f"{path} is damaged: it holds the key tokens of another metric.")
    if found is None or found.header["fingerprint"] != run.manifest["dataset"].get("fingerprint"):
        return None
    return found


def read_key_tokens(path: Path) -> KeyTokens | None:
    """The key tokens in a file; None if it is not there. A last line cut short is left out.

    Raises:
        BenchError: the file is damaged.
    """
    try:
        state = path.stat()
    except OSError:
        return None
    return _read(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=32)
def _read(path: Path, *_: int) -> KeyTokens:
    """Reads a file that every row and slice of a table asks for, once for each of its states."""
    lines, _last = read_lines(path)
    values = [_unsealed(line, path, number) for number, line in enumerate(lines, start=1)]
    if not values:
        raise BenchError(f"{path} is damaged: it is empty.")
    header, *rest = values
    texts = all(isinstance(header.get(name), str) for name in ("metric", "dtype", "fingerprint"))
    objects = all(isinstance(header.get(name), dict) for name in ("rule", "evaluator"))
    if header.get("schema_version") != SCHEMA_VERSION or not (texts and objects):
        raise BenchError(f"{path} is damaged: its first line does not say how it was made.")
    documents = [_document(value, path, number) for number, value in enumerate(rest, start=2)]
    return KeyTokens(header, {document.index: document for document in documents})


def _unsealed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value, checked = unsealed(json.loads(line))
        if checked:
            return value
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    raise BenchError(f"{path} is damaged in line {number}.")


def _document(value: dict[str, Any], path: Path, number: int) -> KeyDocument:
    try:
        document = KeyDocument(**value | {"key": tuple(value["key"])})
    except (TypeError, KeyError) as error:
        raise BenchError(f"{path} is damaged in line {number}.") from error
    names = {field.name for field in fields(document)} - {"key", "flops", "seconds"}
    whole = [getattr(document, name) for name in names] + list(document.key)
    costs = document.flops, document.seconds
    known = all(type(n) is int and 0 <= n < _LARGEST for n in whole)
    if not known or not all(type(n) in (int, float) and 0 <= n < LARGEST for n in costs):
        raise BenchError(f"{path} is damaged in line {number}: it holds an impossible number.")
    rising = all(a < b for a, b in zip(document.key, document.key[1:], strict=False))
    if not rising or (document.key and document.key[-1] >= document.tokens):
        raise BenchError(f"{path} is damaged in line {number}: its key tokens are out of order.")
    return document


def remove_key_tokens(group: Path) -> None:
    """Deletes the key tokens of a group, and nothing else that may lie in their folder."""
    folder = group / FOLDER
    with explained(folder):
        for file in folder.glob(f"{LONGPPL}*.jsonl"):
            file.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


class KeyTokensWriter:
    """Appends documents to a file of key tokens, which another process cannot write meanwhile."""

    def __init__(self, path: Path, descriptor: int):
        self.path = path
        self._descriptor = descriptor

    def append(self, document: KeyDocument) -> None:
        """Stores the key tokens of one more document."""
        append_line(self._descriptor, self.path, to_json(sealed(asdict(document))))


@contextmanager
def written_key_tokens(path: Path, header: Mapping[str, Any]) -> Iterator[KeyTokensWriter]:
    """Opens a file of key tokens: it goes on where its header is this, else it begins anew.

    Raises:
        UsageError: another process is writing into the folder.
        BenchError: it cannot be written.
    """
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = RunLock(path.parent)
    try:
        found = _readable(path)
        kept = found is not None and found.identity == identity_of(header)
        first = (
            found.header
            if found is not None and kept
            else {"schema_version": SCHEMA_VERSION, **header}
        )
        lines = [first, *(map(asdict, found.documents.values()) if found and kept else ())]
        # Written whole, so that a line that a crash cut short is not in the middle of the file.
        write_atomically(path, b"".join(to_json(sealed(line)) for line in lines))
        with explained(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            yield KeyTokensWriter(path, descriptor)
        finally:
            os.close(descriptor)
    finally:
        lock.release()


def _readable(path: Path) -> KeyTokens | None:
    """What a file holds; a damaged one is made again."""
    try:
        return read_key_tokens(path)
    except BenchError:
        return None
