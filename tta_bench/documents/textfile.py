"""Reads text files byte for byte; errors say where a file stops being text."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tta_bench.errors import DocumentError
from tta_bench.files import file_sha256

_BLOCK = 1 << 20
_UTF_16 = "UTF-16, not UTF-8; convert it, for instance with iconv"
_KNOWN = {
    codecs.BOM_UTF16_LE: _UTF_16,
    codecs.BOM_UTF16_BE: _UTF_16,
    b"\x1f\x8b": "packed with gzip; unpack it first",
    b"PK\x03\x04": "a ZIP archive; unpack it first",
}
"""What binary files that hold text begin with, and what to do with them."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns an error of the operating system into a DocumentError about the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DocumentError(f"{path} cannot be read: {reason}.") from error


def read_text(path: Path) -> str:
    """The whole file, untranslated: the length of the text in UTF-8 is the size of the file."""
    with readable(path):
        data = path.read_bytes()
    return _decode(data, path, offset=0)


def text_lines(path: Path) -> Iterator[str]:
    r"""The lines with their endings, split at `\n` only; a byte order mark is dropped."""
    offset = 0
    with readable(path), path.open("rb") as handle:
        # A binary file may have no newline: check before a "line" of gigabytes is read.
        _refuse_nul(handle.read(_BLOCK), path, offset=0)
        handle.seek(0)
        for raw in handle:
            line = _decode(raw, path, offset)
            yield line.removeprefix("\ufeff") if offset == 0 else line
            offset += len(raw)


def is_text(path: Path) -> bool:
    """Whether the whole file is UTF-8 without NUL bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with readable(path), path.open("rb") as handle:
        try:
            while block := handle.read(_BLOCK):
                if b"\0" in block:
                    return False
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def readable_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content; sizes and time stamps do not show every edit."""
    with readable(path):
        return file_sha256(path)


def _decode(data: bytes, path: Path, offset: int) -> str:
    _refuse_nul(data, path, offset)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{path} is not UTF-8 at byte {offset + error.start} (0x{data[error.start]:02x}); "
            "convert the file to UTF-8, for instance with iconv."
        ) from error


def _refuse_nul(data: bytes, path: Path, offset: int) -> None:
    position = data.find(b"\0")
    if position < 0:
        return
    if offset == 0:
        for start, advice in _KNOWN.items():
            if data.startswith(start):
                raise DocumentError(f"{path} is {advice}.")
    raise DocumentError(
        f"{path} is a binary file (NUL at byte {offset + position}), not UTF-8 text."
    )
