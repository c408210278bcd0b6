"""What `check` and `audit` show of a finding: its name, a coloured word, and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tta_bench.tables.column import Column
from tta_bench.tables.table import Table

_COLOURS = {"pass": "green", "fail": "bold red", "skip": "yellow"}


def findings_table(title: str, kind: str, rows: Sequence[dict[str, Any]]) -> Table:
    """A table with a row for each finding.

    Args:
        title: what was judged.
        kind: what a finding is of, `probe` or `check`, and the key of its name.
        rows: findings with `status` and `sentence`, and `figure` where something is measured.
    """
    measured = [Column("figure", "measured", left=True)] if any("figure" in r for r in rows) else []
    columns = [
        Column(kind, kind, left=True),
        Column("status", "status", left=True, style=lambda row: _COLOURS[row["status"]]),
        *measured,
        Column("sentence", "result", left=True, keep=True),
    ]
    return Table(title, columns, rows)
