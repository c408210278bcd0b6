"""The columns that somebody chose: which of a table's, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tta_bench.format import DASH, count
from tta_bench.metrics import Metric, available
from tta_bench.tables.column import Column, Values, joined
from tta_bench.tables.naming import called_so, column_of, label, names_for, plain_name
from tta_bench.tables.table import Table

OPTION = "--columns"


def names_of(columns: str | None) -> list[str]:
    """The names in `method, perplexity, flops`; none without the option."""
    return [] if columns is None else [name.strip() for name in columns.split(",")]


def metrics_in(names: Sequence[str]) -> list[str]:
    """The metrics among names of columns, which a table then has to show.

    Args:
        names: keys or headings, in any case; what is no metric is left out.

    Raises:
        UsageError: a name asks for a metric that cannot be scaled down so.
    """
    found: list[str] = []
    every = available(names).values() if names else ()
    for name in names:
        wanted = plain_name(name)
        called = [m for m in every if wanted in names_for(m.name, m.title, m.unit)]
        found += [metric.name for metric in called] if len(called) == 1 else []
    return found


def with_columns(
    table: Table, names: Sequence[str], metrics: Sequence[Metric] = (), leading: int = 1
) -> Table:
    """The table with these columns alone, in this order; without names the table itself.

    Its first columns say what a row is of: they stand in front unless they are named.

    Args:
        table: any table; it shows the metrics among the names (`metrics_in`).
        names: headings or keys, in any case, or their beginnings.
        metrics: those that could have been asked for, of which a wrong name may mean one.
        leading: how many columns it takes to say what a row is of.

    Raises:
        UsageError: a name is no column, or several.
    """
    if not names:
        return table
    shown = {column.key for column in table.shown}
    more = {metric.name: _heading(metric) for metric in metrics if metric.name not in shown}
    known = replace(table, columns=[c for c in table.columns if c.key not in more])
    whole = [column for name in names if (column := called_so(known, name)) is not None]
    asked = [column_of(known, name, OPTION, more.values(), whole) for name in names]
    first = [column for column in table.shown[:leading] if column not in asked]
    columns = [_seen(column, table.rows) for column in dict.fromkeys([*first, *asked])]
    return replace(table, columns=columns, chosen=True)


def _heading(metric: Metric) -> str:
    return " ".join(joined(f"{metric.title} {metric.unit}").split())


def _seen(column: Column, rows: Sequence[Values]) -> Column:
    """The column as people see it; one that only CSV and JSON have by default gets a heading."""
    if column.title:
        return replace(column, keep=True)
    values = [row.get(column.key) for row in rows]

    def text(row: Values) -> str:
        value = row.get(column.key)
        if value is None:
            return DASH
        if isinstance(value, bool):
            return "yes" if value else "no"
        return count(value) if isinstance(value, int) else str(value)

    words = any(isinstance(value, (str, list)) for value in values)
    return replace(column, title=label(column), show=text, left=words, keep=True)
