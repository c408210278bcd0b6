"""Tokenised documents: exact ids and sizes, and a cache that can be trusted."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_tokenizers import byte_level, byte_level_bytes
from transformers import ByT5Tokenizer

from tta_bench.documents import TokenizedDataset, tokenized, tokens
from tta_bench.documents.cache import write_cache
from tta_bench.documents.tokens import tokenizer_identity
from tta_bench.errors import ChangedError, DocumentError, UsageError

TEXT = "hello 日本 world\n" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "texts"
    path.mkdir()
    for name, text in {"a": TEXT, "b": "", "c": "x", "d": "def f(x):\n" * 9}.items():
        (path / f"{name}.txt").write_text(text)
    return path


def prepare(folder: Path | str, **options: Any) -> TokenizedDataset:
    home = Path(folder).parent / "cache"
    return tokenized(str(folder), byte_level(), cache_dir=home, **options)


def test_ids_are_those_of_the_whole_text_without_special_tokens(folder: Path) -> None:
    data = prepare(folder)
    assert [document.key for document in data] == ["a.txt", "b.txt", "c.txt", "d.txt"]
    for document, text in zip(data, (TEXT, "", "x", "def f(x):\n" * 9), strict=True):
        assert document.token_ids.dtype == np.int32
        assert document.token_ids.tolist() == byte_level().encode(text, add_special_tokens=False)
        assert document.n_bytes == len(text.encode())
        assert document.n_words == len(re.split(r"\s+", text))
        assert document.sha256 == hashlib.sha256(text.encode()).hexdigest()
    lengths = [len(document.token_ids) for document in data]
    assert len(data) == 4
    assert (data.total_tokens, data.max_tokens_per_document) == (sum(lengths), max(lengths))
    assert data[-1].key == data[3].key
    assert lengths[1:3] == [0, 1]  # too short to score, but there for the engine to say so
    with pytest.raises(IndexError):
        data[4]


def test_max_tokens_cuts_text_and_ids_alike(folder: Path) -> None:
    whole, data = prepare(folder)[0], prepare(folder, max_tokens=50)[0]
    assert 47 <= len(data.token_ids) <= 50
    assert data.token_ids.tolist() == whole.token_ids[: len(data.token_ids)].tolist()
    covered = byte_level_bytes(byte_level(), data.token_ids)
    assert data.n_bytes == len(covered)
    assert data.n_words == len(re.split(r"\s+", covered.decode()))
    assert data.sha256 == whole.sha256  # the document is the same, less of it is read


def test_min_tokens_comes_before_limit(folder: Path) -> None:
    assert [d.key for d in prepare(folder, limit=2)] == ["a.txt", "b.txt"]
    assert [d.key for d in prepare(folder, limit=2, min_tokens=2)] == ["a.txt", "d.txt"]
    with pytest.raises(DocumentError, match="lower --min-tokens"):
        prepare(folder, min_tokens=10_000)


def test_join_is_one_stream(folder: Path) -> None:
    (document,) = prepare(folder, join="\n\n", min_tokens=1)
    text = "\n\n".join([TEXT, "x", "def f(x):\n" * 9])
    assert document.key == "joined"
    assert document.token_ids.tolist() == byte_level().encode(text, add_special_tokens=False)
    assert document.n_bytes == len(text.encode())


def test_one_final_newline_can_be_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello\n\n")
    (document,) = prepare(tmp_path / "a.txt", drop_final_newline=True)
    assert document.n_bytes == len("hello\n")


@pytest.mark.parametrize("option", ["limit", "max_tokens", "min_tokens"])
def test_senseless_options(folder: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} must be at least"):
        prepare(folder, **{option: -1})


def test_the_cache_follows_contents_tokenizer_and_options(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def spy(target: Path, documents: Any) -> None:
        written.append(target.name)
        write_cache(target, documents)

    monkeypatch.setattr("tta_bench.documents.tokens.write_cache", spy)
    first = prepare(folder)
    again = prepare(folder)
    assert (len(written), again.fingerprint) == (1, first.fingerprint)
    shutil.copytree(folder, folder.parent / "copy")  # a place is no content
    assert prepare(folder.parent / "copy").fingerprint == first.fingerprint
    assert len(written) == 1

    stamp = (folder / "c.txt").stat()
    (folder / "c.txt").write_text("y")  # the same size
    os.utime(folder / "c.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # and the same time
    changed = prepare(folder)
    assert changed.fingerprint != first.fingerprint
    prepare(folder, max_tokens=5)
    tokenized(str(folder), byte_level(vocab=300), cache_dir=folder.parent / "cache")
    assert len(written) == len(set(written)) == 4


def test_a_tokenizer_is_known_by_what_it_does() -> None:
    tokenizer = byte_level()
    before = tokenizer_identity(tokenizer)
    tokenizer("hello", truncation=True, max_length=2)  # leaves its mark on the backend
    assert tokenizer_identity(tokenizer) == before
    assert tokenizer_identity(byte_level(vocab=300)) != before
    assert tokenizer_identity(ByT5Tokenizer()) != tokenizer_identity(ByT5Tokenizer(extra_ids=3))


def entry_of(folder: Path) -> Path:
    """The only cache that was made of a folder."""
    (entry,) = (folder.parent / "cache" / "tokenized").iterdir()
    return entry


def test_a_cache_that_lacks_a_file_is_written_again(folder: Path) -> None:
    first = prepare(folder)
    entry = entry_of(folder)
    (entry / "totals.json").write_text("{")
    assert prepare(folder).fingerprint == first.fingerprint
    (entry / "documents.arrow").unlink()
    assert prepare(folder)[0].key == "a.txt"


def _change_four_bytes(entry: Path) -> None:
    arrow = entry / "documents.arrow"
    ids = byte_level().encode(TEXT, add_special_tokens=False)
    data = arrow.read_bytes()
    at = data.index(np.asarray(ids, "<i4").tobytes())
    arrow.write_bytes(data[: at + 8] + np.int32(7).tobytes() + data[at + 12 :])


def _cut(entry: Path) -> None:
    arrow = entry / "documents.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-600])


def _change_totals(entry: Path) -> None:
    totals = (entry / "totals.json").read_text()
    fingerprint = json.loads(totals)["totals"]["fingerprint"]
    (entry / "totals.json").write_text(totals.replace(fingerprint, "0" * 64))


@pytest.mark.parametrize("damage", [_change_four_bytes, _cut, _change_totals])
def test_a_damaged_cache_is_made_again_with_a_note(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    first = prepare(folder)
    expected = [document.token_ids.tolist() for document in first]
    assert first.notes == ()
    damage(entry_of(folder))
    again = prepare(folder)
    assert again.notes == (f"the cache of token ids of {folder} was damaged; it is made again",)
    assert again.fingerprint == first.fingerprint
    assert [document.token_ids.tolist() for document in again] == expected
    assert prepare(folder).notes == ()


def test_a_cache_that_changes_while_it_is_read(folder: Path) -> None:
    data = prepare(folder)
    held = data[0]
    before = held.token_ids.tolist()
    _change_four_bytes(entry_of(folder))
    assert held.token_ids.tolist() == before
    with pytest.raises(ChangedError, match="at document 0: run the command again"):
        data[0]


@pytest.mark.parametrize("name", ["a.txt", "d.jsonl"])
def test_a_text_that_changes_while_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (folder / "d.jsonl").write_text('{"text": "one"}\n')
    read = tokens.encoded_texts

    def saved_meanwhile(*arguments: Any) -> Any:
        (folder / name).write_text('{"text": "two"}\n')
        return read(*arguments)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(tokens, "encoded_texts", saved_meanwhile)
        with pytest.raises(DocumentError, match="was changed while it was being read"):
            prepare(folder)
    assert list((folder.parent / "cache" / "tokenized").iterdir()) == []
    assert prepare(folder)[0].n_bytes > 0


def test_a_cache_that_cannot_be_written(folder: Path) -> None:
    (folder.parent / "cache").write_text("a file where the folder should be")
    with pytest.raises(DocumentError, match=r"cannot be written to .*set TTA_BENCH_CACHE"):
        prepare(folder)


def test_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' * 20 + "{\n")
    with pytest.raises(DocumentError, match="Line 21"):
        prepare(tmp_path / "a.jsonl")
    assert list((tmp_path / "cache" / "tokenized").iterdir()) == []


def _prepare_in_process(folder: Path, barrier: Any, answers: Any) -> None:
    barrier.wait()
    data = prepare(folder)
    answers.put((data.fingerprint, [d.token_ids.tolist() for d in data]))


def test_processes_may_prepare_the_same_cache_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    byte_level()
    workers = [
        context.Process(target=_prepare_in_process, args=(folder, barrier, answers))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    results = [answers.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    assert results[0] == results[1] == results[2]
    assert len(list((folder.parent / "cache" / "tokenized").iterdir())) == 1


def test_the_environment_names_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTA_BENCH_CACHE", str(folder.parent / "elsewhere"))
    tokenized(str(folder), byte_level())
    assert len(list((folder.parent / "elsewhere" / "tokenized").iterdir())) == 1


def test_memory_does_not_grow_with_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory are a batch of rows and one of ids; here 120 documents more are 2 MB more."""
    monkeypatch.setattr("tta_bench.documents.cache._BATCH_TOKENS", 20_000)
    line = json.dumps({"text": "hello world, " * 600}) + "\n"
    (tmp_path / "big.jsonl").write_text(line * 160)
    prepare(tmp_path / "big.jsonl", limit=1)  # imports are not what is measured
    peaks = []
    for limit in (40, 160):
        tracemalloc.start()
        try:
            data = prepare(tmp_path / "big.jsonl", limit=limit)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert len(data) == 160
    assert peaks[1] - peaks[0] < 0.2e6
