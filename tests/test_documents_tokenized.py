"""Tokenised documents: exact ids, exact bytes under truncation, and a cache that can be trusted."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import tracemalloc
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tta_bench.documents import TokenizedDataset, tokenized
from tta_bench.documents.cache import write_cache
from tta_bench.documents.cut import cut_to_characters
from tta_bench.documents.tokens import tokenizer_identity
from tta_bench.errors import DocumentError, UsageError

CORPUS = [
    "hello world, this is a test of the things  \n",
    "def f(x):\n    return x\n",
    "é 日本 naïve",
]


@cache
def byte_level(trim: bool = False, vocab: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's; ``trim`` takes white space off the offsets, as RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, initial_alphabet=alphabet, show_progress=False, special_tokens=["<s>"]
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


@cache
def whole_text_bytes() -> PreTrainedTokenizerFast:
    """Byte-level, but without words: tokens may begin and end with white space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["hello world, hello you  and  you "] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@cache
def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2's: a space before the text, none between words, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    single = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=single, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def byte_level_bytes(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray) -> bytes:
    """What the tokens stand for in GPT-2's alphabet: printable bytes, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    return bytes(table[c] for token in tokenizer.convert_ids_to_tokens(ids.tolist()) for c in token)


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def cut(tokenizer: Any, text: str, limit: int) -> tuple[np.ndarray, int, int]:
    encoding = tokenizer(text, add_special_tokens=False)
    ids = np.asarray(encoding["input_ids"], dtype=np.int32)
    offsets = encoding.encodings[0].offsets if tokenizer.is_fast else None
    return ids, *cut_to_characters(tokenizer, text, ids, offsets, limit)


ODD = "aé日😀\u0301\u200d\ufffd\u3000\u00a0\ufeff\U0010ffff\0 \t\r\n<s>"
TEXTS = st.text(st.sampled_from(ODD) | st.characters(codec="utf-8"), min_size=1, max_size=30)


@pytest.mark.parametrize("trim", [False, True])
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 40))
@example(text="a\ufffdb", limit=2)
@example(text="a  b", limit=2)
def test_truncation_counts_every_byte_of_the_kept_tokens(trim: bool, text: str, limit: int) -> None:
    tokenizer = byte_level(trim)
    text = text.replace("<s>", "")  # a special token is no sequence of bytes
    ids, kept, end = cut(tokenizer, text, limit)
    assert byte_level_bytes(tokenizer, ids[:kept]) == text[:end].encode()
    # No longer cut would have done.
    longer = [ids[:k] for k in range(kept + 1, min(limit, len(ids)) + 1)]
    assert not any(is_utf8(byte_level_bytes(tokenizer, ids)) for ids in longer)


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from("helo wrdyuan, é"), max_size=30), limit=st.integers(1, 12))
@example(text="hello  world ", limit=1)
def test_white_space_trimmed_off_the_offsets_is_counted(text: str, limit: int) -> None:
    tokenizer = whole_text_bytes()
    ids, kept, end = cut(tokenizer, text, limit)
    assert byte_level_bytes(tokenizer, ids[:kept]) == text[:end].encode()


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 40))
def test_truncation_with_byte_fallback(text: str, limit: int) -> None:
    tokenizer = byte_fallback()
    text = text.replace("▁", "_").replace("<unk>", "")
    ids, kept, end = cut(tokenizer, text, limit)
    tokens = tokenizer.convert_ids_to_tokens(ids[:kept].tolist())
    data = b"".join(
        bytes([int(t[3:5], 16)]) if re.fullmatch("<0x..>", t) else t.replace("▁", " ").encode()
        for t in tokens
    )
    assert data.removeprefix(b" ") == text[:end].encode()  # the space before the text is no byte


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 60))
def test_truncation_without_offsets(text: str, limit: int) -> None:
    tokenizer = ByT5Tokenizer()  # Python only: one token a byte, from id 3 on
    text = text.replace("<", "(")
    ids, kept, end = cut(tokenizer, text, limit)
    assert bytes(int(i) - 3 for i in ids[:kept]) == text[:end].encode()
    assert kept > limit - 4 or kept == len(ids)


def test_a_tokenizer_that_cannot_account_for_its_bytes_says_so() -> None:
    class Lossy:
        def decode(self, ids: list[int], **_: bool) -> str:
            return "?" * len(ids)

    with pytest.raises(DocumentError, match="leave out --max-tokens"):
        cut_to_characters(Lossy(), "abcdefgh" * 9, np.arange(40, dtype=np.int32), None, 20)


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


def test_a_damaged_cache_is_written_again(folder: Path) -> None:
    first = prepare(folder)
    (entry,) = (folder.parent / "cache" / "tokenized").iterdir()
    (entry / "totals.json").write_text("{")
    assert prepare(folder).fingerprint == first.fingerprint
    (entry / "documents.arrow").unlink()
    assert prepare(folder)[0].key == "a.txt"


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
