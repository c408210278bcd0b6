"""A control string in a text is text, unless the protocol is that of a tool that parses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command import Command
from tiny_tokenizers import byte_fallback, byte_level, unigram, word_piece
from tokenizers import AddedToken
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tta_bench.documents import TokenizedDataset, tokenized
from tta_bench.documents.encode import Encoder
from tta_bench.engine.protocol import PROTOCOLS, Protocol
from tta_bench.store import load_run

KINDS = {
    "byte-level BPE": (byte_level, "<s>"),
    "BPE converted from SentencePiece": (byte_fallback, "<unk>"),
    "WordPiece": (word_piece, "[CLS]"),
    "written in Python": (ByT5Tokenizer, "</s>"),
}


def prepare(tmp_path: Path, tokenizer: Any, text: str, **options: Any) -> TokenizedDataset:
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    return tokenized(str(tmp_path / "text.txt"), tokenizer, cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_string_is_text(tmp_path: Path, kind: str) -> None:
    make, string = KINDS[kind]
    tokenizer = make()
    control = tokenizer.convert_tokens_to_ids(string)
    text = f"hello {string} world"
    plain = prepare(tmp_path, tokenizer, text)
    parsed = prepare(tmp_path, tokenizer, text, parse_controls=True)
    assert control not in plain[0].token_ids
    assert control in parsed[0].token_ids
    assert plain.fingerprint != parsed.fingerprint
    assert f"({string}) in 1 of 1 document are read as plain text" in plain.notes[0]
    assert "are read as control tokens" in parsed.notes[0]


def test_a_tokenizer_that_cannot_says_so(tmp_path: Path) -> None:
    """A Unigram model finds the string in its vocabulary, whatever it is told."""
    data = prepare(tmp_path, unigram(), "hello <s> world")
    assert unigram().bos_token_id in data[0].token_ids
    assert "cannot read them as plain text" in data.notes[0]


@pytest.mark.parametrize("make", [byte_level, byte_fallback, unigram, word_piece, ByT5Tokenizer])
def test_other_texts_are_tokenised_as_ever(tmp_path: Path, make: Any) -> None:
    tokenizer, text = make(), "hello world, this is\n\n< s > 日本"
    plain = prepare(tmp_path, tokenizer, text)
    assert plain[0].token_ids.tolist() == tokenizer.encode(text, add_special_tokens=False)
    assert plain.fingerprint == prepare(tmp_path, tokenizer, text, parse_controls=True).fingerprint
    assert not any("control" in note for note in plain.notes)


def test_added_words_that_are_not_special_stay_tokens(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(byte_level().backend_tokenizer).from_str(
            byte_level().backend_tokenizer.to_str()
        ),
        bos_token="<s>",
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    data = prepare(tmp_path, tokenizer, "<think>hello<s>")
    tokens = tokenizer.convert_ids_to_tokens(data[0].token_ids.tolist())
    assert tokens[0] == "<think>"
    assert tokens[-3:] == ["<", "s", ">"]


def test_what_a_cut_leaves_out_is_not_told(tmp_path: Path) -> None:
    assert not prepare(tmp_path, byte_level(), "hello world, hello <s>", max_tokens=3).notes


def test_only_protocols_of_tools_that_parse_do() -> None:
    parsing = {
        name
        for name in PROTOCOLS
        if Protocol(name, window=None if name == "stream" else 8).parses_controls
    }
    assert parsing == {"lm-eval", "hf-guide", "krause"}


def test_the_string_of_the_unknown_token_may_be_unknown_text() -> None:
    encoder = Encoder(byte_fallback(), parse_controls=False)
    ids = encoder.encode("<unk>")["input_ids"]
    assert not encoder.oddities("<unk>", ids).parsed


@pytest.mark.parametrize(
    ("protocol", "sentence"),
    [((), "read as plain text"), (("--protocol", "lm-eval", "--window", 64), "control tokens")],
)
def test_eval_says_and_stores_it(
    tmp_path: Path, tta_bench: Command, protocol: tuple[object, ...], sentence: str
) -> None:
    (tmp_path / "a.txt").write_text("hello <|bos|> you, hello there, hello world")
    done = tta_bench(
        "eval", "--dataset", "a.txt", "--audit", "off", "--name", "g", *protocol, cwd=tmp_path
    )
    (path,) = (tmp_path / "results" / "g").iterdir()
    assert "<|bos|>" in done.stderr
    assert any(sentence in note for note in load_run(path).notes)
    assert "<|bos|>" in done.stdout
