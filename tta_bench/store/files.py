"""Reads and writes files so that a crash or a full disk leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tta_bench.errors import BenchError, StorageError

SEAL = "crc32"
"""Name of the checksum field: CRC-32 (8 hex digits) of the object's JSON without this field."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError while `path` is being written into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full: {path} could not be written; what was written before is kept. "
                "Free some space and run the command again."
            ) from error
        reason = error.strerror or type(error).__name__
        raise StorageError(f"{path} cannot be written: {reason}.") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that appears whole, flushed to disk, or not at all.

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


def write_output(path: Path, data: bytes) -> None:
    """Writes a file that a user named: through a link and into a device or pipe, as a shell does.

    A renamed draft would take the place of `/dev/stdout` or of the link.

    Raises:
        BenchError: the disk is full or the file cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with explained(path), path.open("wb") as stream:
            stream.write(data)
    else:
        write_atomically(Path(os.path.realpath(path)), data)


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk, if the system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def append_line(descriptor: int, path: Path, data: bytes) -> None:
    """Appends `data` in one write and flushes it to disk; a partial write is undone."""
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
    """Strict JSON in ASCII, so that no text in it can break a line or control a terminal."""
    return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its checksum as the last field; indentation does not change the checksum."""
    return {**value, SEAL: _checksum(value)}


def unsealed(value: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The object without its checksum, and whether it had one.

    Raises:
        ValueError: the checksum is wrong.
    """
    bare = {name: item for name, item in value.items() if name != SEAL}
    if SEAL in value and value[SEAL] != _checksum(bare):
        raise ValueError("its checksum is wrong: bytes have changed since it was written")
    return bare, SEAL in value


def _checksum(value: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(value).encode()):08x}"


def read_json(path: Path) -> tuple[dict[str, Any], bool]:
    """The JSON object in a file, and whether it had a checksum.

    Raises:
        BenchError: the file is missing, unreadable or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is damaged: it is not valid JSON.") from error
    if not isinstance(value, dict):
        raise BenchError(f"{path} is damaged: it does not contain a JSON object.")
    try:
        return unsealed(value)
    except ValueError as error:
        raise BenchError(f"{path} is damaged: {error}.") from error


def read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """The complete lines of a file without their ends, and what follows the last line end.

    A missing file has no lines.

    Raises:
        BenchError: the file cannot be read.
    """
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.") from error
    lines = data.split(b"\n")
    last = lines.pop()
    return lines, last


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
