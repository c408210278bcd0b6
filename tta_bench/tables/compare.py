"""The tables of `compare`: the summary with tests and tiers, sorted as asked."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tta_bench.errors import UsageError
from tta_bench.format import BREAK, DASH, listed
from tta_bench.metrics.difference import difference_of
from tta_bench.statistics import (
    BOOTSTRAP_DOCUMENTS,
    LEVEL,
    bootstrap_interval,
    holm_pairs,
    sign_flip_p,
    tiers,
)
from tta_bench.tables.settings import BASELINE, baseline_of, by_setting, require_baseline
from tta_bench.tables.summary import summary_tables
from tta_bench.tables.table import Column, Table, Values

if TYPE_CHECKING:
    from tta_bench.store import Run

RATIO = "perplexity_ratio"
P_NOTE = (
    "p: paired t over documents, the test of the interval of Δ, by Holm over all pairs of ranked "
    "rows"
)
TIER_NOTE = (
    "tier: by the same test; going down from the best row, a row that differs at 5 % from the "
    "first row of the current tier starts the next tier"
)


def compare_tables(
    runs: Sequence[Run],
    baseline: str = BASELINE,
    sort: str | None = None,
    metrics: Sequence[str] = (),
) -> list[Table]:
    """The summary tables with ratio of perplexities, p and tier; one table per setting.

    Args:
        runs: stored runs, of one or several settings.
        baseline: name or spec of the method that the others are compared with.
        sort: key or heading of the column to sort by, the best first.
        metrics: names of metrics to show beside those that are always shown.

    Raises:
        UsageError: no run is of the baseline, no column is called `sort`, or there is no such
            metric.
        MetricError: a metric fails.
    """
    require_baseline(runs, baseline)
    tables = summary_tables(runs, baseline, [*metrics, RATIO])
    groups = by_setting(runs)
    whole = [_tested(table, group, baseline) for table, group in zip(tables, groups, strict=True)]
    return [sorted_table(table, sort) for table in whole]


def _tested(table: Table, group: Sequence[Run], baseline: str) -> Table:
    other = baseline_of(group, baseline)
    rows = [{**row, **_tests(run, other, row)} for run, row in zip(group, table.rows, strict=True)]
    losses = [row["nll_per_token"] if row["ranked"] else None for row in rows]

    def p_value(i: int, j: int) -> float | None:
        pair = difference_of(group[i], group[j])
        return None if pair is None else pair.p_t

    # One family of tests for both, so that p and tier cannot contradict each other.
    adjusted, levels = holm_pairs(losses, p_value), tiers(losses, p_value)
    if all(p is None for p in adjusted.values()):  # nothing was tested: nothing shares a tier
        levels = [None] * len(rows)
    place = next((i for i, run in enumerate(group) if run is other), -1)
    for i, (row, tier) in enumerate(zip(rows, levels, strict=True)):
        row["tier"] = tier
        row["p_holm"] = adjusted.get((min(i, place), max(i, place)))
        if row["p_holm"] is None and i != place:
            row["p_reason"] = _no_test(row, rows[place] if place >= 0 else None)
    at = next(i for i, c in enumerate(table.columns) if c.key == RATIO) + 1
    columns = [*table.columns[:at], *_TEST_COLUMNS, *table.columns[at:]]
    return replace(table, columns=columns, rows=rows, notes=_with_notes(table.notes, rows))


def _no_test(row: Values, baseline: Values | None) -> str:
    """Why a row has no p."""
    if baseline is None:
        return str(row["delta_reason"])
    if not row["ranked"]:
        return "it is not ranked"
    if not baseline["ranked"]:
        return f"{baseline['method']} is not ranked"
    return str(row["delta_reason"])


def _tests(run: Run, baseline: Run | None, row: Values) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(column.key for column in _TEST_COLUMNS)
    pair = difference_of(run, baseline)
    if pair is None or not row["ranked"]:
        return values
    values["p_t"] = pair.p_t
    if 2.0 ** (1 - pair.clusters) <= LEVEL:  # the least that sign flips can give
        values["p_sign_flip"] = sign_flip_p(pair.sums)
    low, high = bootstrap_interval(pair.sums, pair.sizes) or (None, None)
    values |= {"delta_bootstrap_ci95_low": low, "delta_bootstrap_ci95_high": high}
    # JSON has no infinity.
    return {name: v if v is None or math.isfinite(v) else None for name, v in values.items()}


def _with_notes(notes: Sequence[str], rows: Sequence[Values]) -> list[str]:
    added = []
    if any(row["p_holm"] is not None for row in rows):
        added.append(P_NOTE)
    if any(row["delta_bootstrap_ci95_low"] is not None for row in rows):
        added.append(
            "csv, json and parquet hold a bootstrap interval of Δ, too (seed 0, from "
            f"{BOOTSTRAP_DOCUMENTS} documents on)"
        )
    added += [f"no p: {note}" for note in _untested(rows)]
    if any(row["tier"] for row in rows):
        added.append(TIER_NOTE)
    return [*notes[:2], *added, *notes[2:]]


def _untested(rows: Sequence[Values]) -> list[str]:
    """Why rows have no p, each reason once, with the rows that it is about."""
    methods: dict[str, list[str]] = {}
    for row in rows:
        if row["p_reason"]:
            methods.setdefault(row["p_reason"], []).append(row["method"])
    return [f"{listed(about)}: {reason}" for reason, about in methods.items()]


def sorted_table(table: Table, name: str | None) -> Table:
    """The table sorted by a column, the best first and what is not known last.

    A row that is not ranked comes after those that are, wherever one value is better than another.

    Args:
        table: any table.
        name: key or heading of the column; None keeps the order.

    Raises:
        UsageError: no column is called so.
    """
    if name is None:
        return table
    column = _column(table, name)

    def order(row: Values) -> Any:
        value = row[column.key]
        return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value

    known = [row for row in table.rows if row.get(column.key) is not None]
    unknown = [row for row in table.rows if row.get(column.key) is None]
    known = sorted(known, key=order, reverse=column.better == "higher")
    if column.better is not None:
        known.sort(key=lambda row: not row.get("ranked", True))
    return replace(table, rows=[*known, *unknown])


def _column(table: Table, name: str) -> Column:
    wanted = name.strip().lower()
    for column in table.columns:
        title = column.title.replace(BREAK, "").lower()
        if wanted in (column.key.lower(), title):
            return column
    known = ", ".join(column.key for column in table.columns)
    raise UsageError(f"--sort '{name}' is no column; there are {known}.")


def p_text(p: float | None) -> str:
    """`0.031`, `<0.001`."""
    if p is None:
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"


_TEST_COLUMNS = [
    Column("p_holm", "p", show=lambda row: p_text(row["p_holm"])),
    Column("tier", "tier", show=lambda row: DASH if row["tier"] is None else str(row["tier"])),
    Column("p_reason"),
    Column("p_t"),
    Column("p_sign_flip"),
    Column("delta_bootstrap_ci95_low"),
    Column("delta_bootstrap_ci95_high"),
]
