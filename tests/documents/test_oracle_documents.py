"""Streams with a known best reader, as documents of token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_tokenizers import byte_fallback, byte_level

from tta_bench.documents import TokenizedDataset, load_documents, tokenized
from tta_bench.documents.oracle import drawable_tokens
from tta_bench.errors import DocumentError
from tta_bench.oracle.best import symbols_sha256
from tta_bench.oracle.spec import stream_of


def drawn(spec: str, folder: Path, **options: Any) -> TokenizedDataset:
    options = {"limit": 3, "max_tokens": 300} | options
    return tokenized(spec, byte_level(), cache_dir=folder, **options)


def test_symbols_become_tokens_drawn_anew_for_each_document(tmp_path: Path) -> None:
    data = drawn("oracle:unigram:symbols=16", tmp_path)
    stream = stream_of("oracle:unigram:symbols=16")
    tokens = drawable_tokens(byte_level())
    assert data.vocabulary == len(tokens)
    alphabets = []
    for number, document in enumerate(data):
        symbols = stream.draw(number, 300)
        assert document.key == f"unigram/{number}"
        assert document.sha256 == symbols_sha256(symbols)
        names = dict(zip(symbols.tolist(), document.token_ids.tolist(), strict=True))
        assert [names[symbol] for symbol in symbols.tolist()] == document.token_ids.tolist()
        assert len(set(names.values())) == len(names)
        assert set(names.values()) <= set(tokens.tolist())
        assert (document.n_bytes, document.n_words) == (0, 0)  # they are no text
        alphabets.append(frozenset(names.values()))
    assert len(set(alphabets)) == 3


@pytest.mark.parametrize("tokenizer", [byte_level, byte_fallback])
def test_tokens_that_are_no_text_or_special_are_never_drawn(tokenizer: Any) -> None:
    tokenizer = tokenizer()
    tokens = drawable_tokens(tokenizer)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    assert not special & set(tokens.tolist())
    assert 0 < len(tokens) < len(tokenizer) - len(special)  # bytes of characters are left out
    for id_ in tokens.tolist():
        text = tokenizer.decode([id_])
        assert text
        assert "\ufffd" not in text


def test_a_document_does_not_depend_on_how_many_and_how_long(tmp_path: Path) -> None:
    few = drawn("oracle:markov-1", tmp_path, limit=2, max_tokens=100)
    many = drawn("oracle:markov-1", tmp_path, limit=4, max_tokens=250)
    assert (len(few), few.max_tokens_per_document) == (2, 100)
    assert (len(many), many.total_tokens) == (4, 1000)
    for one, other in zip(few, many, strict=False):
        np.testing.assert_array_equal(one.token_ids, other.token_ids[:100])
    usual = drawn("oracle:nothing", tmp_path, limit=None, max_tokens=None)
    assert (len(usual), usual.max_tokens_per_document) == (32, 4096)


def test_the_cache_is_of_the_stream_not_of_its_spelling(tmp_path: Path) -> None:
    first = drawn("oracle:tree", tmp_path)
    again = drawn("oracle:tree:depth=3", tmp_path)
    other = drawn("oracle:tree:seed=1", tmp_path)
    assert len(list((tmp_path / "tokenized").iterdir())) == 2
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        ("oracle:bursty", {}, "1,024 symbols are more than the"),
        ("oracle:markov", {}, "did you mean 'oracle:markov-1'"),
        ("oracle:copy", {"min_tokens": 301}, "lower --min-tokens"),
        ("oracle:copy", {"join": "\n"}, "this protocol joins texts"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, spec: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DocumentError, match=sentence):
        drawn(spec, tmp_path, **options)


def test_there_is_no_text_to_train_on() -> None:
    with pytest.raises(DocumentError, match="holds token ids and no text"):
        load_documents("oracle:unigram")
