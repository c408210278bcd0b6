"""In how few bits a GGUF file holds its weights, from its header alone.

The reader of the package gguf makes an object of every word of the vocabulary, which takes seconds;
here they are passed over. The layout is that of the GGUF specification (ggml, docs/gguf.md),
versions 2 and 3, little-endian.
"""

from __future__ import annotations

import struct
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type."""
_STRING, _ARRAY = 8, 9


def gguf_precision(file: Path) -> dict[str, Any]:
    """What a manifest records of the precision of the weights; empty where it cannot be told.

    Returns:
        `stored_types`, the shares of all weights in each type, such as `Q4_1`, the largest first,
        and `stored_bits`, the mean number of bits of a weight, scales included.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        with file.open("rb") as opened:
            numbers = _weights_by_type(opened)
        sizes = Counter({GGMLQuantizationType(kind): count for kind, count in numbers.items()})
        bits = {kind: 8 * GGML_QUANT_SIZES[kind][1] / GGML_QUANT_SIZES[kind][0] for kind in sizes}
    except (OSError, ValueError, KeyError, struct.error):  # what loads the file says what is wrong
        return {}
    total = sum(sizes.values())
    shares = {kind.name: round(count / total, 4) for kind, count in sizes.most_common()}
    mean = sum(bits[kind] * count for kind, count in sizes.items()) / total
    return {"stored_types": shares, "stored_bits": round(mean, 2)}


def _weights_by_type(file: BinaryIO) -> Counter[int]:
    """How many weights there are of each type, by the type's number."""
    magic, _, tensors, entries = _read(file, "<4sIQQ")
    if magic != b"GGUF":
        raise ValueError("no GGUF file")
    for _ in range(entries):
        _pass_string(file)
        _pass_value(file, *_read(file, "<I"))
    counts: Counter[int] = Counter()
    for _ in range(tensors):
        _pass_string(file)
        (dimensions,) = _read(file, "<I")
        shape = _read(file, f"<{dimensions}Q")
        kind, _ = _read(file, "<IQ")
        counts[kind] += prod(shape)
    return counts


def _pass_value(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _pass_string(file)
    elif kind == _ARRAY:
        inner, length = _read(file, "<IQ")
        if inner in _BYTES:
            file.seek(_BYTES[inner] * length, 1)
            return
        for _ in range(length):
            _pass_value(file, inner)
    else:
        file.seek(_BYTES[kind], 1)


def _pass_string(file: BinaryIO) -> None:
    (length,) = _read(file, "<Q")
    file.seek(length, 1)


def _read(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
