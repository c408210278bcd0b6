"""The summary table: a row per run and a column per metric, from stored rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tta_bench.format import BREAK, DASH
from tta_bench.metrics import Metric, available, named
from tta_bench.store.rows import FAILED
from tta_bench.tables.choosing import metrics_in, with_columns
from tta_bench.tables.column import Column, Values
from tta_bench.tables.notes import metric_notes, notes_of
from tta_bench.tables.ranking import marked, missing_mark
from tta_bench.tables.row import rows_of_setting, summary_rows
from tta_bench.tables.settings import BASELINE, baseline_label, by_setting, titles_of
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Run


def summary_tables(
    runs: Sequence[Run],
    baseline: str = BASELINE,
    metrics: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> list[Table]:
    """A table for the runs of each setting; what sets a setting apart is in the title.

    Args:
        runs: stored runs, of one or several settings.
        baseline: name or spec of the method that the others are compared with.
        metrics: names of metrics to show beside those that are always shown.
        columns: names of the columns to show; none for all that are shown.

    Raises:
        UsageError: there is no such metric or column.
        MetricError: a metric fails.
    """
    metrics = list(dict.fromkeys([*metrics, *metrics_in(columns)]))
    named(metrics)
    groups = by_setting(runs)
    titles = titles_of(groups)
    tables = [
        _table(group, title, baseline, metrics) for group, title in zip(groups, titles, strict=True)
    ]
    return [chosen_columns(table, columns) for table in tables]


def chosen_columns(table: Table, names: Sequence[str]) -> Table:
    """A summary table with these columns alone; the first metric says why a run has no numbers.

    Args:
        table: a summary table that shows the metrics among `names`.
        names: headings or keys, or their beginnings; none for all that are shown.

    Raises:
        UsageError: a name is no column, or several.
    """
    metrics = available(metrics_in(names)) if names else {}
    chosen = with_columns(table, names, list(metrics.values()))
    if not names:
        return chosen
    keys = {column.key for column in chosen.columns}
    unseen = tuple(start for start, about in _ABOUT.items() if not keys & about)
    columns = list(chosen.columns)
    first = next((place for place, c in enumerate(columns) if c.key in metrics), None)
    if first is not None:
        text = metrics[columns[first].key].text
        columns[first] = replace(columns[first], show=_or_status(text))
    notes = [note for note in chosen.notes if not note.startswith(unseen)]
    return replace(chosen, columns=columns, notes=notes)


def require_columns(names: Sequence[str]) -> None:
    """Refuses names that no summary table could have, before there is a run to show.

    Raises:
        UsageError: a name is no column, or several.
    """
    asked = metrics_in(names)
    every = available(asked).values()
    shown = {metric.title: metric for metric in every if metric.shown or metric.name in asked}
    columns = [metric_column(metric, BASELINE) for metric in shown.values()]
    facts = [Column(name) for name in _FACTS]
    with_columns(Table("", [_METHOD, *columns, *facts, *_KEYS], []), names, list(every))


def chosen_rows(
    runs: Sequence[Run], metrics: Sequence[str] = (), columns: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of `summary_rows`; with columns, those of the tables, one after another.

    Args:
        runs: stored runs, of one or several settings.
        metrics: names of metrics that are there when they are asked for.
        columns: names of the values to keep; none for all.

    Raises:
        UsageError: there is no such metric or column.
    """
    if not columns:
        return summary_rows(runs, metrics)
    tables = summary_tables(runs, metrics=metrics, columns=columns)
    return [table.values(row) for table in tables for row in table.rows]


def _table(group: Sequence[Run], title: str, baseline: str, metrics: Sequence[str]) -> Table:
    rows = rows_of_setting(group, baseline, metrics)
    every = available(metrics).values()
    shown = [metric for metric in every if metric.in_table(group[0]) or metric.name in metrics]
    columns = _columns(every, shown, baseline_label(group, baseline), metrics)
    notes = [*notes_of(group, rows, baseline), *metric_notes(shown, group)]
    return Table(title, columns, rows, notes)


def _columns(
    every: Iterable[Metric], shown: Sequence[Metric], baseline: str, asked: Sequence[str]
) -> list[Column]:
    """What people see, then what CSV, JSON and Parquet hold beside it."""
    return [
        _METHOD,
        *(
            replace(metric_column(metric, baseline, place == 0), keep=metric.name in asked)
            for place, metric in enumerate(shown)
        ),
        *(Column(name) for name in _FACTS),
        *(Column(m.name, better=m.better) for m in every if m not in shown),
        *_KEYS,
    ]


_FACTS = (
    *("name", "status", "reason", "partial", "ranked", "not_ranked", "valid", "valid_reason"),
    *("model", "dataset", "dtype", "device", "lanes", "documents_done", "documents_distinct"),
    *("documents_missing", "tokens", "bytes", "words", "nll"),
)


def metric_column(metric: Metric, baseline: str, first: bool = False) -> Column:
    """The column that shows a metric.

    Args:
        metric: what to show.
        baseline: what the heading calls the baseline.
        first: whether it is the first metric of its table, which says why a run has no numbers.
    """
    return Column(
        metric.name,
        metric.title.replace("{baseline}", baseline),
        metric.unit,
        show=_or_status(metric.text) if first else _unless_failed(metric.text),
        better=metric.better,
        bold=metric.bold,
        narrow=metric.narrow,
    )


def _or_status(show: Callable[[Values], str]) -> Callable[[Values], str]:
    def text(row: Values) -> str:
        if row["status"] in FAILED or row["nll"] is None:
            return row["status"] if row["status"] != "complete" else "no document"
        if row["documents_missing"]:
            mark = missing_mark(row["documents_done"], row["documents_missing"])
            return mark.replace(" ", f" {BREAK}")
        return show(row)

    return text


def _unless_failed(show: Callable[[Values], str]) -> Callable[[Values], str]:
    """A failed run's values are of part of the documents, at best: they do not stand in line."""
    return lambda row: DASH if row["status"] in FAILED else show(row)


def _method(row: Values) -> str:
    return marked(row["label"], row["marks"])


_ABOUT = {
    "Δ: ": {"delta_nats_per_token"},
    "p: ": {"p_holm", "tier"},
    "no p: ": {"p_holm"},
    "csv, json and parquet hold": {"p_holm"},
    "tier: ": {"tier"},
}
"""How notes begin that explain columns, and which: without any of them they are left out."""
_METHOD = Column("method", "method", show=_method, left=True)
_KEYS = (Column("key"), Column("run"))
