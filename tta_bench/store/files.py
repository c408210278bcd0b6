"""Reading and writing files so that a crash or a full disk leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tta_bench.errors import BenchError


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError while `path` is being written into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BenchError(
                f"the disk is full: {path} could not be written; what was written before is kept. "
                "Free some space and run again."
            ) from error
        reason = error.strerror or type(error).__name__
        raise BenchError(f"{path} cannot be written: {reason}.") from error


def write_atomically(path: Path, data: bytes) -> None:
    """The file appears whole, on disk, or not at all.

    Raises:
        BenchError: the disk is full or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        try:
            with draft.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def append_line(descriptor: int, path: Path, data: bytes) -> None:
    """Appends `data` in one write and waits until it is on disk; a partial write is taken back."""
    with explained(path):
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise


def to_json(value: Any, indent: int | None = None) -> bytes:
    """Strict JSON in ASCII, so that no text in it can break a line or a terminal."""
    return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        BenchError: it is missing, unreadable or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is damaged: it is not valid JSON.") from error
    if not isinstance(value, dict):
        raise BenchError(f"{path} is damaged: it does not hold a JSON object.")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
