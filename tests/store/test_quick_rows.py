"""Rows read by their own bytes are those that are read as JSON, whatever the file holds."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from fuzzing import JSON, damaged, fuzzed
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_runs import make_row, store_run

from tta_bench.errors import BenchError
from tta_bench.store import Row, reader
from tta_bench.store.files import sealed, to_json
from tta_bench.store.quick_rows import BLOCK, quick_rows

WRITTEN = make_row(0, nll=2.5, nll_file="nll/00000.npz", nll_sha256="ab" * 32)


def line_of(row: Row) -> bytes:
    return to_json(sealed(row.to_dict()))


def outcome(path: Path, checked: bool) -> Any:
    """What a file of rows gives: its rows with their types, or the sentence."""
    try:
        rows, warnings = reader.read_rows(path, checked)
    except BenchError as error:
        return str(error)
    return [repr(row) for row in rows], warnings


def both(path: Path, data: bytes) -> None:
    """Holds the quick reader against the one of JSON alone."""
    path.write_bytes(data)
    for checked in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reader, "quick_rows", lambda lines: [None] * len(lines))
            expected = outcome(path, checked)
        assert outcome(path, checked) == expected


def test_rows_that_were_written_are_read_quickly(tmp_path: Path) -> None:
    lines = (store_run(tmp_path, documents=BLOCK + 3).path / "rows.jsonl").read_bytes().splitlines()
    assert [*quick_rows(lines)] == [Row.from_dict(json.loads(line)) for line in lines]
    lines[1] = line_of(make_row(1, "oom", reason="no memory"))[:-1]
    rows = [*quick_rows(lines)]
    assert [place for place, row in enumerate(rows) if row is None] == [1]
    assert [*quick_rows([])] == []


def test_a_byte_that_changed_is_found(tmp_path: Path) -> None:
    path = store_run(tmp_path, documents=3).path / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"tokens": 110', b'"tokens": 111'))
    with pytest.raises(BenchError, match="damaged in line 2: its checksum is wrong"):
        reader.read_rows(path, True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"nll": 2.5', '"nll": 2.50'),
        ('"nll": 2.5', '"nll": 25e-1'),
        ('"nll": 2.5', '"nll": 3'),
        ('"nll": 2.5', '"nll": 1e+100'),
        ('"nll": 2.5', '"nll": 1.5e+100'),
        ('"nll": 2.5', '"nll": 1.0e+999'),
        ('"nll": 2.5', '"nll": -0.0'),
        ('"nll": 2.5', '"nll": NaN'),
        ('"nll": 2.5', '"nll": null'),
        ('"seconds": 0.5', '"seconds": 0.50'),
        ('"seconds": 0.5', '"seconds": -0.5'),
        ('"index": 0', '"index": 00'),
        ('"index": 0', '"index": -1'),
        ('"index": 0', '"index": 9007199254740992'),
        ('"index": 0', '"index": 999999999999999'),
        ('"tokens": 100', '"tokens": 0'),
        ('"tokens": 100', '"tokens": true'),
        ('"tokens": 100', '"tokens": 100, "tokens": 7'),
        ('"tokens": 100', '"tokens":100'),
        ('"tokens": 100', '"tokens": ١'),
        ('"key": "doc0.py"', '"key": "d\\u00f6c"'),
        ('"key": "doc0.py"', '"key": "döc"'),
        ('"key": "doc0.py"', '"key": "\\/"'),
        ('"key": "doc0.py"', '"key": "a\\", \\"b"'),
        ('"key": "doc0.py"', '"key": "\x7f"'),
        ('"key": "doc0.py"', '"key": "\t"'),
        ('"status": "done"', '"status": "skipped"'),
        ('"reason": null', '"reason": "why"'),
        ('"nll_file": "nll/00000.npz"', '"nll_file": null'),
        ('"session": 0', '"session": 0, "more": 1'),
        (', "session": 0', ""),
    ],
)
def test_other_spellings_under_a_checksum_of_their_bytes(
    tmp_path: Path, old: str, new: str
) -> None:
    """Such lines nobody writes but by hand; a checksum is of the JSON as it would be written."""
    bare = json.dumps(WRITTEN.to_dict())
    assert old in bare
    changed = bare.replace(old, new).encode()
    seal = f', "crc32": "{zlib.crc32(changed):08x}"}}\n'.encode()
    others = b"".join(line_of(make_row(i, nll=1.5)) for i in (1, 2))
    both(tmp_path / "rows.jsonl", line_of(make_row(3, nll=1.5)) + changed[:-1] + seal + others)


texts = st.text(max_size=6)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 10**17)
counts = st.integers(0, 2**54)


@settings(fuzzed, max_examples=60)
@given(data=st.data())
def test_any_rows(tmp_path: Path, data: Any) -> None:
    rows = data.draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "key": texts,
                    "index": counts,
                    "status": st.sampled_from(["done", "done", "done", "oom"]),
                    "tokens": counts,
                    "bytes": counts,
                    "words": counts,
                    "nll": numbers | st.none(),
                    "seconds": numbers,
                    "sha256": texts,
                    "reason": st.none() | texts,
                    "nll_file": st.none() | texts,
                    "nll_sha256": st.none() | texts,
                    "session": counts | JSON,
                }
            ),
            max_size=4,
        )
    )
    both(tmp_path / "rows.jsonl", b"".join(to_json(sealed(row)) for row in rows))


@settings(fuzzed, max_examples=60)
@given(data=st.data())
def test_damaged_rows(tmp_path: Path, data: Any) -> None:
    lines = [line_of(make_row(i, nll=1.5 + i, nll_file="a", nll_sha256="b")) for i in range(4)]
    whole = b"".join([*lines[:2], b"\n" * data.draw(st.integers(0, 1)), *lines[2:]])
    both(tmp_path / "rows.jsonl", data.draw(damaged(whole)))
