"""Sorting a table by a column that is named as the table shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tta_bench.tables.column import Values
from tta_bench.tables.naming import column_of
from tta_bench.tables.table import Table


def sorted_table(table: Table, name: str | None) -> Table:
    """The table sorted by a column, the best first and what is not known last.

    A row that is not ranked comes after those that are, wherever one value is better than another.

    Args:
        table: any table.
        name: heading or key of the column, in any case, or the beginning of one; None keeps the
            order.

    Raises:
        UsageError: no column is called so, or several.
    """
    if name is None:
        return table
    column = column_of(table, name, "--sort")

    def order(row: Values) -> Any:
        value = row[column.key]
        return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value

    known = [row for row in table.rows if row.get(column.key) is not None]
    unknown = [row for row in table.rows if row.get(column.key) is None]
    known = sorted(known, key=order, reverse=column.better == "higher")
    if column.better is not None:
        known.sort(key=lambda row: not row.get("ranked", True))
    # What a table is sorted by stays in it, however narrow the terminal.
    columns = [replace(c, keep=True) if c is column else c for c in table.columns]
    return replace(table, columns=columns, rows=[*known, *unknown])
