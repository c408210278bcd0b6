"""Finding a column by the name that people give it: a heading, a key, or the beginning of one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from tta_bench.errors import UsageError
from tta_bench.format import ASCII
from tta_bench.tables.column import Column, joined
from tta_bench.tables.table import Table


def column_of(
    table: Table,
    name: str,
    option: str,
    others: Iterable[str] = (),
    apart: Sequence[Column] = (),
) -> Column:
    """The column of that name; what the table shows comes before what only JSON has.

    Args:
        table: any table.
        name: heading or key of the column, in any case, or the beginning of one.
        option: the option that took the name, as in `--sort`.
        others: more names that may have been meant, for the hint.
        apart: columns that the beginning of a name does not mean.

    Raises:
        UsageError: no column is called so, or several.
    """
    wanted = plain_name(name)
    called = called_so(table, name)
    if called is not None:
        return called
    for columns in _by_rank(table):
        begun = [c for c in columns if c not in apart and _begins(c, wanted)]
        if len(begun) == 1:
            return begun[0]
        if begun:
            raise UsageError(f"{option} '{name}' is more than one column: {headings(begun)}.")
    labels = {each: label(column) for column in table.columns for each in _names(column)}
    labels |= {plain_name(other): other for other in others}
    close = [text for text in labels if wanted and text.startswith(wanted)]
    close = close or difflib.get_close_matches(wanted, labels, n=1, cutoff=0.6)
    hint = f"did you mean '{labels[close[0]]}'? The" if close else "the"
    raise UsageError(f"{option} '{name}' is no column; {hint} table shows {headings(table.shown)}.")


def called_so(table: Table, name: str) -> Column | None:
    """The column whose heading or key is this name as a whole; None if there is none."""
    wanted = plain_name(name)
    called = [column for columns in _by_rank(table) for column in columns]
    return next((column for column in called if wanted in _names(column)), None)


def label(column: Column) -> str:
    """A name that no other column has: the heading, or the key of a column without one."""
    return " ".join(joined(column.title).split()) or column.key.replace("_", " ")


def headings(columns: Sequence[Column]) -> str:
    """Headings, each with its key where two columns share it."""
    labels = [label(column) for column in columns]
    full = [
        text if labels.count(text) == 1 else f"{text} ({column.key})"
        for text, column in zip(labels, columns, strict=True)
    ]
    return ", ".join(full)


def plain_name(text: str) -> str:
    """A name as it is compared: in lower case, with single blanks."""
    return " ".join(joined(text).lower().split())


def names_for(key: str, title: str, unit: str) -> list[str]:
    """What a column may be called: its key, its heading, and its heading with the unit.

    A heading may be typed as a terminal without `Δ` and `×` shows it.
    """
    headings = [text for text in (title, f"{title} {unit}" if title and unit else "") if text]
    in_ascii = [text.translate(ASCII) for text in headings]
    names = [key, key.replace("_", " "), *headings, *in_ascii]
    return list(dict.fromkeys(map(plain_name, names)))


def _by_rank(table: Table) -> tuple[list[Column], list[Column]]:
    """What the table shows, then what only JSON has."""
    return table.shown, [column for column in table.columns if not column.title]


def _names(column: Column) -> list[str]:
    return names_for(column.key, column.title, column.unit)


def _begins(column: Column, wanted: str) -> bool:
    return bool(wanted) and any(name.startswith(wanted) for name in _names(column))
