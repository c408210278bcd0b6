"""Files of key tokens: what is not as it was written is refused, and who writes is alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tta_bench.errors import BenchError, UsageError
from tta_bench.store.files import sealed
from tta_bench.store.key_tokens import KeyDocument, read_key_tokens, written_key_tokens

HEADER: dict[str, Any] = {
    "metric": "longppl-64",
    "rule": {"trunc_len": 64},
    "evaluator": {"name": "judge", "sha256": "ee"},
    "dtype": "float32",
    "fingerprint": "f00d",
}
DOCUMENT = KeyDocument(0, 100, (70, 80), 300, 1e9, 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "key_tokens" / "longppl-64-f00d.jsonl"
    with written_key_tokens(path, HEADER) as writer:
        writer.append(DOCUMENT)
    return path


def test_what_was_written_is_read(path: Path) -> None:
    found = read_key_tokens(path)
    assert found is not None
    assert dict(found.documents) == {0: DOCUMENT}
    assert found.evaluator == "judge"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert read_key_tokens(path.with_name("none.jsonl")) is None


def test_more_is_added_under_the_same_header_alone(path: Path) -> None:
    with written_key_tokens(path, HEADER) as writer:
        writer.append(KeyDocument(1, 50, (), 0, 0.0, 0.0))
    found = read_key_tokens(path)
    assert found is not None
    assert set(found.documents) == {0, 1}
    with written_key_tokens(path, HEADER | {"dtype": "bfloat16"}):
        pass
    found = read_key_tokens(path)
    assert found is not None
    assert not found.documents


def test_a_line_that_a_crash_cut_short_is_left_out(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b'{"index": 1, "tok')
    found = read_key_tokens(path)
    assert found is not None
    assert set(found.documents) == {0}
    with written_key_tokens(path, HEADER) as writer:
        writer.append(KeyDocument(1, 50, (), 0, 0.0, 0.0))
    found = read_key_tokens(path)
    assert found is not None
    assert set(found.documents) == {0, 1}


@pytest.mark.parametrize(
    "change",
    [
        {"key": [80, 70]},
        {"key": [70, 100]},
        {"key": [-1]},
        {"key": ["70"]},
        {"key": [True]},
        {"key": 7},
        {"index": 0.5},
        {"tokens": None},
        {"more": 1},
        {"flops": "many"},
    ],
)
def test_impossible_values_are_refused(path: Path, change: dict[str, Any]) -> None:
    header, document = path.read_text().splitlines()
    value = json.loads(document) | change
    value.pop("crc32")
    path.write_text(f"{header}\n{json.dumps(sealed(value))}\n")
    with pytest.raises(BenchError, match="damaged in line 2"):
        read_key_tokens(path)


def test_changed_bytes_are_refused(path: Path) -> None:
    path.write_text(path.read_text().replace("[70, 80]", "[70, 81]"))
    with pytest.raises(BenchError, match="damaged in line 2"):
        read_key_tokens(path)
    with written_key_tokens(path, HEADER) as writer:  # it is made again
        writer.append(DOCUMENT)
    assert read_key_tokens(path) is not None
    path.write_text("")
    with pytest.raises(BenchError, match="empty"):
        read_key_tokens(path)


def test_one_process_writes_at_a_time(path: Path) -> None:
    with (
        written_key_tokens(path, HEADER),
        pytest.raises(UsageError, match="another process"),
        written_key_tokens(path, HEADER),
    ):
        pass
