"""The summary table: a row per run and a column per metric, from stored rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tta_bench.format import DASH
from tta_bench.metrics import Metric, available, named
from tta_bench.store.rows import FAILED
from tta_bench.tables.notes import notes_of
from tta_bench.tables.ranking import marked, missing_mark
from tta_bench.tables.row import rows_of_setting
from tta_bench.tables.settings import BASELINE, by_setting, titles_of
from tta_bench.tables.table import Column, Table, Values

if TYPE_CHECKING:
    from tta_bench.store import Run


def summary_tables(
    runs: Sequence[Run], baseline: str = BASELINE, metrics: Sequence[str] = ()
) -> list[Table]:
    """A table for the runs of each setting; what sets a setting apart is in the title.

    Args:
        runs: stored runs, of one or several settings.
        baseline: name or spec of the method that the others are compared with.
        metrics: names of metrics to show beside those that are always shown.

    Raises:
        UsageError: there is no such metric.
        MetricError: a metric fails.
    """
    named(metrics)
    groups = by_setting(runs)
    titles = titles_of(groups)
    return [
        _table(group, title, baseline, metrics) for group, title in zip(groups, titles, strict=True)
    ]


def _table(group: Sequence[Run], title: str, baseline: str, metrics: Sequence[str]) -> Table:
    rows = rows_of_setting(group, baseline)
    specs = [run.spec for run in group]
    for run, row in zip(group, rows, strict=True):
        row["label"] = run.spec
        if specs.count(run.spec) > 1:  # other seeds, or another version of the same plugin
            row["label"] += f" ({run.manifest['key'].split('-')[-1][:8]})"
    columns = _columns(group[0], baseline, metrics)
    return Table(title, columns, rows, notes_of(group, rows, baseline))


def _columns(first: Run, baseline: str, asked: Sequence[str]) -> list[Column]:
    """What people see, then what CSV, JSON and Parquet hold beside it."""
    every = available().values()
    shown = [metric for metric in every if metric.in_table(first) or metric.name in asked]
    return [
        Column("method", "method", show=_method, left=True, narrow=24),
        *(metric_column(metric, baseline, place == 0) for place, metric in enumerate(shown)),
        *(Column(name) for name in _FACTS),
        *(Column(m.name, better=m.better) for m in every if m not in shown),
        Column("key"),
        Column("run"),
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
        baseline: the baseline's name, for the heading.
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
            return missing_mark(row["documents_done"], row["documents_missing"])
        return show(row)

    return text


def _unless_failed(show: Callable[[Values], str]) -> Callable[[Values], str]:
    """A failed run's values are of part of the documents, at best: they do not stand in line."""
    return lambda row: DASH if row["status"] in FAILED else show(row)


def _method(row: Values) -> str:
    return marked(row["label"], row["marks"])
