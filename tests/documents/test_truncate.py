"""Truncation: the bytes counted are those of the kept tokens, whatever the text and tokenizer."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_fallback, byte_level, byte_level_bytes, whole_text_bytes
from transformers import ByT5Tokenizer

from tta_bench.documents.truncate import truncate_at_character
from tta_bench.errors import DocumentError


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
    return ids, *truncate_at_character(tokenizer, text, ids, offsets, limit)


ODD = "aé日😀\u0301\u200d\ufffd\u3000\u00a0\ufeff\U0010ffff\0 \t\r\n<s>"
TEXTS = st.text(st.sampled_from(ODD) | st.characters(codec="utf-8"), min_size=1, max_size=30)


@pytest.mark.parametrize("trim", [False, True])
@settings(max_examples=150)
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


@settings(max_examples=150)
@given(text=st.text(st.sampled_from("helo wrdyuan, é"), max_size=30), limit=st.integers(1, 12))
@example(text="hello  world ", limit=1)
def test_white_space_trimmed_off_the_offsets_is_counted(text: str, limit: int) -> None:
    tokenizer = whole_text_bytes()
    ids, kept, end = cut(tokenizer, text, limit)
    assert byte_level_bytes(tokenizer, ids[:kept]) == text[:end].encode()


@settings(max_examples=150)
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


@settings(max_examples=100)
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
        truncate_at_character(Lossy(), "abcdefgh" * 9, np.arange(40, dtype=np.int32), None, 20)
