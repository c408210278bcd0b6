"""Numbers and text as people read them; what is not known is a dash."""

from __future__ import annotations

import math
from collections.abc import Iterable

DASH = "—"

BREAK = "\u200b"
"""In a heading or a cell: where a line may break on a narrow terminal; shown as nothing else."""

ASCII = str.maketrans(
    {
        "Δ": "d",
        "×": "x",
        "±": "+-",
        "∞": "inf",
        "µ": "u",
        DASH: "-",
        "·": ".",
        "…": "...",
        BREAK: "",
        **dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True)),
    }
)
"""What to write for characters of ours where an encoding lacks them."""


def plain(text: str, keep: str = "") -> str:
    """The text without control characters: a document's key must not steer a terminal.

    Args:
        keep: characters that are left as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def fixed(value: float | None, decimals: int, sign: str = "") -> str:
    """`1,234.50`; with `sign="+"` the sign is always there."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 1e7:
        return f"{value:{sign}.3g}"
    return f"{value:{sign},.{decimals}f}"


def count(value: float | None) -> str:
    """`1,234`, or a few digits where there are less than 100."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def si(value: float | None) -> str:
    """Three digits and a decimal prefix: `1.23 G`."""
    if value is None:
        return DASH
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{_digits(value / 10**power)} {prefix}"
    return _digits(value)


def binary(value: float | None, power: int) -> str:
    """Bytes in units of 2^power (20: MiB, 30: GiB), three digits."""
    return DASH if value is None else _digits(value / 2**power)


def number(value: float) -> str:
    """`1,234`, `12.35`, `0.001235`: four digits, for a quantity of any size."""
    if abs(value) >= 1000:
        return fixed(value, 0)
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """`0:07`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def plural(number: int, noun: str) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(items: Iterable[str]) -> str:
    """`a, b, c`, each once, in order."""
    return ", ".join(dict.fromkeys(items))


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 0.01 else f"{value:.{2 if abs(value) < 9.995 else 1}f}"
