"""Files that a user names: a rename would take the place of a device, a pipe or a link."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tta_bench.errors import BenchError
from tta_bench.store.files import write_output


def test_a_file_appears_and_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    for data in (b"one", b"two"):
        write_output(file, data)
        assert file.read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.html").symlink_to(tmp_path / "target.html")
    for data in (b"one", b"two"):
        write_output(tmp_path / "link.html", data)
        assert (tmp_path / "link.html").is_symlink()
        assert (tmp_path / "target.html").read_bytes() == data


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_output(pipe, b"the page")
    reader.join(timeout=10)
    assert read == [b"the page"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError):
        write_output(tmp_path, b"x")
