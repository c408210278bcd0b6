"""Folders appear whole or not at all, and hashes are those of the contents."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tta_bench.files import complete_folder, file_sha256


def is_complete(folder: Path) -> bool:
    return (folder / "last").is_file()


def write_folder(target: Path, text: str) -> None:
    with complete_folder(target, is_complete) as draft:
        (draft / "last").write_text(text)
        assert not (target / "last").is_file() or (target / "last").read_text() != text


def test_a_hash_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than two blocks
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    write_folder(tmp_path / "a" / "b", "one")
    assert (tmp_path / "a" / "b" / "last").read_text() == "one"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"], "no draft is left"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half-way"), complete_folder(tmp_path / "b", is_complete):
        raise ValueError("half-way")
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    with complete_folder(tmp_path / "b", is_complete) as draft:
        (draft / "last").write_text("slow")
        write_folder(tmp_path / "b", "fast")
    assert (tmp_path / "b" / "last").read_text() == "fast"


def test_a_damaged_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "half").write_text("")
    write_folder(tmp_path / "b", "one")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["last"]
