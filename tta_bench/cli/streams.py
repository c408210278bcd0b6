"""Standard output and error whatever they are: another encoding, a closed pipe, a full disk."""

from __future__ import annotations

import codecs
import io
import os
import sys

from tta_bench.format import ASCII

_REPLACE = "tta-bench-replace"


def accept_any_text() -> None:
    """Makes both streams write what their encoding lacks in other characters, never fail on it."""
    codecs.register_error(_REPLACE, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if it is closed
            stream.reconfigure(errors=_REPLACE)


def flush_output() -> None:
    """Writes what is left; a reader that has gone shows here and not while Python ends.

    Raises:
        OSError: nobody reads, or the disk is full.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def discard_output() -> None:
    """Lets standard output lead nowhere, so that what is left in its buffer raises no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end].translate(ASCII)
    return "".join(c if c.isascii() else "?" for c in lacking), error.end
