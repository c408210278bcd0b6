"""Texts and names that break readers, all in one run of `eval`: sizes right, nothing raised."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.documents import load_documents
from tta_bench.errors import DocumentError
from tta_bench.store import Run, load_run

SCORED = {
    "byte order mark": "\ufeffhello there",
    "carriage returns": "hello\r\nthere\r\n",
    "white space alone": " \n\t \n" * 5,
    "control characters": "\x1b[31mred\x07 \x7f",
    "control strings": "<|bos|> hi <|eos|>",
    "emoji": "👩‍👩‍👧‍👦 is a family 🏳️‍🌈",
    "right to left": "שלום \u202e abc مرحبا",
    "many marks": "a" + "\u0301" * 500,
    "one long word": "x" * 3000,
    "separators of lines": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "the replacement character": "\ufffd" * 20,
    "private and no characters": "\ue000\U0010fffd\ufffe\uffff",
    "markup": "<b>[red]\\x00{{x}}%s</b>",
    "name with\nline": "hello there",
    "100%": "hello there",
    "-dash": "hello there",
    "[x]*?": "hello there",
    "a:b;c": "hello there",
}
SKIPPED = {"empty": "", "one token": "a"}
REFUSED = {
    "nul.txt": (b"ab\0cd", "is a binary file"),
    "utf16.txt": ("hello".encode("utf-16"), "is UTF-16, not UTF-8"),
    "invalid.txt": (b"abc\xff\xfe", "is not UTF-8 at byte 3"),
    "surrogate.txt": (b"ab\xed\xa0\x80", "is not UTF-8 at byte 2"),
    "packed.txt": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "packed with gzip; unpack it"),
    "zip.txt": (b"PK\x03\x04\x14\x00\x00", "a ZIP archive; unpack it"),
    "space.txt": (b"", "There is no text"),
    "nothing.parquet": (b"", "is not a readable Parquet file"),
    "nothing.jsonl": (b"", "There is no text"),
    "missing.jsonl": (b'{"text": "a"}\n{"x": "b"}\n', "Line 2 .* has no column 'text'"),
    "number.jsonl": (b'{"text": "a"}\n{"text": 5}\n', "Line 2 .* of type int"),
    "null.jsonl": (b'{"text": null}\n', "There is no text"),
    "half.jsonl": (b'{"text": "a\\ud800b"}\n', "half a surrogate pair"),
    "list.jsonl": (b'["a"]\n', "is a list, not an object"),
    "returns.csv": (b"id,text\r1,hello\r", "Line 1 .* is not valid CSV"),
    "open.csv": (b'text\n"hello\n', "is not valid CSV"),
    "twice.csv": (b"text,text\na,b\n", "names a column twice"),
    "fields.csv": (b"id,text\n1,a,b\n", "Line 2 .* has 3 fields"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The frozen model on every text that can be read."""
    home = tmp_path_factory.mktemp("hard")
    (home / "texts").mkdir()
    for name, text in {**SCORED, **SKIPPED}.items():
        (home / "texts" / f"{name}.txt").write_bytes(text.encode())
    rows = [{"id": "same", "text": "hello there"}, {"id": "same", "text": "hello you"}]
    lines = "".join(f"{json.dumps(row)}\n" for row in [*rows, {"id": "null", "text": None}])
    (home / "texts" / "rows.jsonl").write_text(lines)
    where = ["--dataset", str(home / "texts"), "--results", str(home), "--name", "g"]
    done = CliRunner().invoke(app, ["eval", *where, "--chunk", "256", "--audit", "off"])
    assert done.exit_code == 0, done.output
    return load_run(next((home / "g").iterdir()))


@pytest.mark.parametrize("name", [*SCORED, *SKIPPED])
def test_a_hard_text(run: Run, name: str) -> None:
    (row,) = (row for row in run.rows if row.key == f"{name}.txt")
    text = {**SCORED, **SKIPPED}[name]
    assert row.status == ("done" if name in SCORED else "skipped")
    assert row.sha256 == hashlib.sha256(text.encode()).hexdigest()
    if name in SCORED:
        assert row.bytes == len(text.encode())


def test_a_byte_order_mark_is_told(run: Run) -> None:
    (note,) = (note for note in run.notes if "byte-order mark" in note)
    assert note.startswith("a byte-order mark at the beginning of 1 of ")


def test_rows_with_the_same_key(run: Run) -> None:
    rows = {row.key: row.status for row in run.rows if row.key.startswith("rows.jsonl")}
    assert rows == {"rows.jsonl:1": "done", "rows.jsonl:2": "done", "rows.jsonl:3": "skipped"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_text(tmp_path: Path, name: str) -> None:
    data, sentence = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DocumentError, match=sentence):
        list(load_documents(str(tmp_path / name)))
