"""Reads rows of rows.jsonl as this version writes them, several times faster than JSON is read.

A run of 100,000 documents spends most of its reading on the checksums, which are of the row's JSON
written anew. Where a line is, byte for byte, what the writer makes of its values, its own bytes are
that JSON. Every other line, damaged or merely older, is left to the reader proper, whose answer
this one must share (tests/store/test_quick_rows.py).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence

from tta_bench.store.files import SEAL
from tta_bench.store.rows import LARGEST, Row

BLOCK = 64
"""Lines that are read together: where one of them is of another form, each is read by itself."""

_COUNT = b"(0|[1-9][0-9]{0,14})"  # below 2**53
_FLOAT = rb"(-?[0-9]+\.[0-9]+(?:e[+-][0-9]+)?)"
_PLAIN = rb'"([ !#-\[\]-~]*)"'  # what JSON in ASCII holds without a backslash
# The fields of a row in their order; one with figures of its method is read as JSON.
_FORMS = {
    "key": _PLAIN,
    "index": _COUNT,
    "status": b'"done"',
    "tokens": b"([1-9][0-9]{0,14})",
    "bytes": _COUNT,
    "words": _COUNT,
    "nll": _FLOAT,
    "seconds": _FLOAT,
    "sha256": _PLAIN,
    "reason": b"null",
    "nll_file": _PLAIN,
    "nll_sha256": _PLAIN,
    "session": _COUNT,
}
_BARE = b", ".join(b'"%s": %s' % (name.encode(), form) for name, form in _FORMS.items())
_MAYBE = b'(?:, "top1": %s)?' % _COUNT  # which runs that kept losses alone have not
_LINE = re.compile(
    rb'^(\{%s%s), "%s": "([0-9a-f]{8})"\}$' % (_BARE, _MAYBE, SEAL.encode()), re.MULTILINE
)


def quick_rows(lines: Sequence[bytes]) -> Iterator[Row | None]:
    """A row for each line, in their order; None for a line that must be read as JSON."""
    for start in range(0, len(lines), BLOCK):
        block = lines[start : start + BLOCK]
        rows = _rows(block)
        if rows is not None:
            yield from rows
        else:
            for line in block:
                alone = _rows([line])
                yield None if alone is None else alone[0]


def _rows(lines: Sequence[bytes]) -> list[Row] | None:
    """The rows of documents that are done; None if a line is not one as it is written."""
    found = _LINE.findall(b"\n".join(lines))
    if len(found) < len(lines):
        return None
    texts, key, index, tokens, size, words, nll, seconds, sha256, file, digest, session, *last = (
        zip(*found, strict=True)
    )
    top1, seals = last
    if [zlib.crc32(b"}", zlib.crc32(text)) for text in texts] != [int(seal, 16) for seal in seals]:
        return None
    losses, times = list(map(float, nll)), list(map(float, seconds))
    # Another text of the same number would have another checksum, were it written anew.
    if [*map(repr, losses)] != [*map(bytes.decode, nll)]:
        return None
    if [*map(repr, times)] != [*map(bytes.decode, seconds)]:
        return None
    if not (min(*losses, *times) > -LARGEST and max(*losses, *times) < LARGEST):
        return None
    counts, right = list(map(int, tokens)), [int(text) if text else None for text in top1]
    if any((known or 0) > most for known, most in zip(right, counts, strict=True)):
        return None
    count = len(lines)
    return list(
        map(
            Row,
            map(bytes.decode, key),
            map(int, index),
            ["done"] * count,
            counts,
            map(int, size),
            map(int, words),
            losses,
            times,
            map(bytes.decode, sha256),
            [None] * count,
            map(bytes.decode, file),
            map(bytes.decode, digest),
            map(int, session),
            [None] * count,
            right,
        )
    )
