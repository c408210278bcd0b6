"""Hashes and stamps of files, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_stamp(path: Path) -> tuple[int, ...]:
    """What moves when a file is written or replaced: its place on disk, its size and its times."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@contextmanager
def complete_folder(target: Path, is_complete: Callable[[Path], bool]) -> Iterator[Path]:
    """Gives an empty folder to fill, which is renamed to `target` if the block raises no error.

    If two processes fill the same target, the first to finish wins and the other's work is dropped.

    Args:
        target: the folder to make; its parents are made too.
        is_complete: whether a folder that already has the name can be kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # The draft lies beside the target: a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=target.parent) as scratch:
        draft = Path(scratch) / "draft"
        draft.mkdir()
        yield draft
        if target.exists() and not is_complete(target):
            shutil.rmtree(target)  # damaged from outside: no writer leaves half a folder
        try:
            draft.rename(target)
        except OSError:
            if not is_complete(target):  # otherwise another process was faster
                raise
