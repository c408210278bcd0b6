"""The tables of `compare`: the summary with tests and tiers, sorted as asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from tta_bench.format import DASH, listed
from tta_bench.metrics.difference import difference_of, p_of_pair
from tta_bench.statistics import (
    BOOTSTRAP_DOCUMENTS,
    LEVEL,
    bootstrap_interval,
    holm_pairs,
    sign_flip_p,
    tiers,
)
from tta_bench.tables.budget import Limit, on_frontier, within_budget
from tta_bench.tables.choosing import metrics_in
from tta_bench.tables.column import Column, Values
from tta_bench.tables.costs import Cost
from tta_bench.tables.settings import (
    BASELINE,
    baseline_label,
    baseline_of,
    baseline_place,
    by_setting,
    require_baseline,
)
from tta_bench.tables.sorting import sorted_table
from tta_bench.tables.summary import chosen_columns, summary_tables
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.statistics import PairedDifference
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
    columns: Sequence[str] = (),
    budget: Sequence[Limit] = (),
    frontier: Cost | None = None,
    resampled: bool = True,
) -> list[Table]:
    """The summary tables with ratio of perplexities, p and tier; one table per setting.

    What a budget or the frontier leaves out is still in the family of tests.

    Args:
        runs: stored runs, of one or several settings.
        baseline: name or spec of the method that the others are compared with.
        sort: heading or key of the column to sort by, or its beginning; the best first.
        metrics: names of metrics to show beside those that are always shown.
        columns: names of the columns to show; none for all that are shown.
        budget: limits that every row must keep to.
        frontier: a cost: only rows that nothing cheaper beats are shown, the cheapest first.
        resampled: whether the p of sign flips and the bootstrap's interval are computed, which no
            column shows that people see.

    Raises:
        UsageError: no run is of the baseline, `sort` is not one column, there is no such metric or
            column, or the baseline's cost, of which a budget is a multiple, is not known.
        MetricError: a metric fails.
    """
    require_baseline(runs, baseline)
    tables = summary_tables(runs, baseline, [*metrics, *metrics_in(columns), RATIO])
    whole = []
    for table, group in zip(tables, by_setting(runs), strict=True):
        table = _tested(table, group, baseline, resampled)
        place = baseline_place(group, baseline)
        row = None if place is None else table.rows[place]
        table = within_budget(table, budget, row, baseline_label(group, baseline))
        table = table if frontier is None else on_frontier(table, frontier)
        whole.append(chosen_columns(sorted_table(table, sort), columns))
    return whole


def _tested(table: Table, group: Sequence[Run], baseline: str, resampled: bool) -> Table:
    other = baseline_of(group, baseline)
    pairs = [
        difference_of(run, other) if row["ranked"] else None
        for run, row in zip(group, table.rows, strict=True)
    ]
    rows = [{**row, **_tests(pair, resampled)} for pair, row in zip(pairs, table.rows, strict=True)]
    losses = [row["nll_per_token"] if row["ranked"] else None for row in rows]

    @cache
    def p_value(i: int, j: int) -> float | None:
        return p_of_pair(group[i], group[j])

    # One family of tests for both, so that p and tier cannot contradict each other.
    adjusted, levels = holm_pairs(losses, p_value), tiers(losses, p_value)
    if all(p is None for p in adjusted.values()):  # nothing was tested: nothing shares a tier
        levels = [None] * len(rows)
    place = baseline_place(group, baseline)
    for i, (row, tier) in enumerate(zip(rows, levels, strict=True)):
        row["tier"] = tier
        row["p_holm"] = None if place is None else adjusted.get((min(i, place), max(i, place)))
        if row["p_holm"] is None and i != place:
            row["p_reason"] = _no_test(row, None if place is None else rows[place])
    at = next(i for i, c in enumerate(table.columns) if c.key == RATIO) + 1
    columns = [*table.columns[:at], *_TEST_COLUMNS, *table.columns[at:]]
    many = any(pair is not None and pair.clusters >= BOOTSTRAP_DOCUMENTS for pair in pairs)
    return replace(table, columns=columns, rows=rows, notes=_with_notes(table.notes, rows, many))


def _no_test(row: Values, baseline: Values | None) -> str:
    """Why a row has no p."""
    if baseline is None:
        return str(row["delta_reason"])
    if not row["ranked"]:
        return "it is not ranked"
    if not baseline["ranked"]:
        return f"{baseline['label']} is not ranked"
    return str(row["delta_reason"])


def _tests(pair: PairedDifference | None, resampled: bool) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(column.key for column in _TEST_COLUMNS)
    if pair is None:
        return values
    values["p_t"] = pair.p_t
    if resampled and 2.0 ** (1 - pair.clusters) <= LEVEL:  # the least that sign flips can give
        values["p_sign_flip"] = sign_flip_p(pair.sums)
    if resampled:
        low, high = bootstrap_interval(pair.sums, pair.sizes) or (None, None)
        values |= {"delta_bootstrap_ci95_low": low, "delta_bootstrap_ci95_high": high}
    # JSON has no infinity.
    return {name: v if v is None or math.isfinite(v) else None for name, v in values.items()}


def _with_notes(notes: Sequence[str], rows: Sequence[Values], many: bool) -> list[str]:
    added = []
    if any(row["p_holm"] is not None for row in rows):
        added.append(P_NOTE)
    if many:
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
            methods.setdefault(row["p_reason"], []).append(row["label"])
    return [f"{listed(about)}: {reason}" for reason, about in methods.items()]


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
