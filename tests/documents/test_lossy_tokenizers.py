"""Tokenizers that lose text: the bytes are those of the text all the same, and a note says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_fallback, byte_level, lower_case_bytes, unigram, word_piece
from transformers import ByT5Tokenizer

from tta_bench.documents import TokenizedDataset, tokenized
from tta_bench.documents.encode import Encoder
from tta_bench.documents.truncate import truncate_at_character

PLAIN = "hello world, this is a test of the things"


def prepare(tmp_path: Path, tokenizer: Any, *texts: str) -> TokenizedDataset:
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    return tokenized(str(tmp_path / "*.txt"), tokenizer, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (unigram, "hello Ж world"),  # unknown
        (word_piece, "hello\n\nworld"),  # white space
        (lower_case_bytes, "Hello"),  # case
        (byte_fallback, "a\u2581b"),  # the sign that stands for a space
    ],
)
def test_lost_text_is_told(tmp_path: Path, make: Any, text: str) -> None:
    data = prepare(tmp_path, make(), PLAIN if make is not word_piece else "hello", text)
    assert data[1].n_bytes == len(text.encode())
    assert "loses text in 1 of 2 documents" in data.notes[0]
    assert "bits per byte" in data.notes[0]


@pytest.mark.parametrize("make", [byte_level, byte_fallback, ByT5Tokenizer])
@settings(max_examples=60)
@given(
    text=st.text(st.sampled_from("aé日😀\u0301\u200d\ufffd\u00a0\ufeff\0 \t\r\n,.'"), max_size=20)
)
@example(text="  two spaces")
@example(text=" n't , .")
def test_nothing_is_said_of_tokenizers_that_keep_it(make: Any, text: str) -> None:
    encoder = Encoder(make(), parse_controls=False)
    assert not encoder.oddities(text, encoder.encode(text)["input_ids"]).lossy


@settings(max_examples=150)
@given(
    text=st.text(st.sampled_from("aBÉ日Ａﬁ½ \u0301e㍿İ"), min_size=1, max_size=20),
    limit=st.integers(1, 30),
)
@example(text="aﬁb", limit=2)
@example(text="½½", limit=4)
@example(text="a\u0301B", limit=2)
@example(text="ﬁ\u0301", limit=1)
def test_truncation_counts_the_bytes_of_the_text_that_the_tokens_stand_for(
    text: str, limit: int
) -> None:
    """The tokens kept are those of the text counted, so no character is cut or left out."""
    tokenizer = lower_case_bytes()
    encoding = tokenizer(text, add_special_tokens=False)
    ids = np.array(encoding["input_ids"], dtype=np.int32)
    kept, end = truncate_at_character(tokenizer, text, ids, encoding.encodings[0].offsets, limit)
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str
    assert tokenizer.decode(ids[:kept].tolist()) == normal(text[:end])
    assert tokenizer.decode(ids[kept:].tolist()) == normal(text[end:])
