"""The tables of `compare --by`: a row for each slice of the documents and each method."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from tta_bench.format import count
from tta_bench.metrics import Metric, available, named
from tta_bench.metrics.difference import DIFFERENCE
from tta_bench.metrics.quality import QUALITY, quality_of
from tta_bench.store.key import setting
from tta_bench.store.verdict import valid_of, valid_reason_of
from tta_bench.tables.choosing import metrics_in, with_columns
from tta_bench.tables.column import Column, Values
from tta_bench.tables.labels import labels_of
from tta_bench.tables.notes import metric_notes, protocol_note
from tta_bench.tables.ranking import marked, missing_documents, standing_of
from tta_bench.tables.row import metric_values
from tta_bench.tables.settings import (
    BASELINE,
    baseline_label,
    baseline_of,
    by_setting,
    require_baseline,
    titles_of,
)
from tta_bench.tables.sorting import sorted_table
from tta_bench.tables.summary import metric_column
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Row, Run

Slice = Literal["domain", "dataset", "document"]
NO_DOMAIN = "(top)"
_SHOWN = ("nll_per_token", "bits_per_byte", "delta_nats_per_token")
_HIDDEN = ("delta_ci95_low", "delta_ci95_high")
_FACTS = ("documents_missing", "valid", "valid_reason")


def slice_tables(
    runs: Sequence[Run],
    by: Slice,
    baseline: str = BASELINE,
    sort: str | None = None,
    metrics: Sequence[str] = (),
    columns: Sequence[str] = (),
    most: int | None = None,
) -> list[Table]:
    """A row for each slice and method; intervals are over the documents of the slice.

    There is a table per setting, except that `dataset` lays side by side the settings that differ
    in documents alone.

    Args:
        runs: stored runs, of one or several settings.
        by: what a slice is; a `domain` is the first part of a document's key, up to a slash.
        baseline: name or spec of the method that the others are compared with.
        sort: heading or key of the column to sort by, or its beginning; the best first.
        metrics: names of metrics to show as well; a slice has no costs.
        columns: names of the columns to show; none for all that are shown.
        most: most rows of a table of domains or documents, the first; a note says so; None for all.

    Raises:
        UsageError: no run is of the baseline, `sort` is not one column, or there is no such
            metric or column.
        MetricError: a metric fails.
    """
    require_baseline(runs, baseline)
    metrics = list(dict.fromkeys([*metrics, *metrics_in(columns)]))
    every = _columns(by, baseline_label(runs, baseline), metrics)
    computed = list(dict.fromkeys([*QUALITY, *DIFFERENCE, *named(metrics)]))
    groups = by_setting(runs)
    if by == "dataset":
        tables = _dataset_tables(groups, baseline, every, computed)
    else:
        tables = []
        for group, title in zip(groups, titles_of(groups), strict=True):
            names = _names(group, _name_of[by])
            shown = names if most is None else names[: -(-most // len(group))]
            rows = _slices(group, _name_of[by], baseline, computed, shown)[:most]
            notes = [f"protocol: {protocol_note(group)}", *_notes(rows, by)]
            notes += metric_notes(named(metrics), group)
            total = len(names) * len(group)
            if len(rows) < total:
                left = f"the first {len(rows):,} of {total:,} rows"
                notes.append(f"{left}; `tta-bench compare --by {by}` has all")
            tables.append(Table(f"{title} · by {by}", every, rows, notes))
    known = list(available(metrics).values())
    return [with_columns(sorted_table(table, sort), columns, known, leading=2) for table in tables]


def _dataset_tables(
    groups: Sequence[Sequence[Run]],
    baseline: str,
    columns: Sequence[Column],
    metrics: Sequence[Metric],
) -> list[Table]:
    alike: dict[str, list[Sequence[Run]]] = {}
    for group in groups:
        parts = {k: v for k, v in setting(group[0].manifest).items() if k != "dataset"}
        where = [parts, protocol_note(group[:1]).split(", ")[-1]]
        alike.setdefault(json.dumps(where, sort_keys=True), []).append(group)
    tables = []
    for several in alike.values():
        names = [str(group[0].manifest["dataset"].get("spec")) for group in several]
        rows = []
        for group, name in zip(several, names, strict=True):
            mark = str(group[0].manifest["dataset"].get("fingerprint"))[:8]
            label = f"{name} ({mark})" if names.count(name) > 1 else name
            rows += _slices(group, _always(label), baseline, metrics)
        notes = [f"protocol: {protocol_note(several[0])}", *_notes(rows, "dataset")]
        title = f"{several[0][0].manifest['model'].get('name')} · by dataset"
        tables.append(Table(title, columns, rows, notes))
    return tables


def _always(label: str) -> Callable[[Row], str]:
    return lambda row: label


def _domain(row: Row) -> str:
    first, slash, _ = row.key.partition("/")
    return first if slash and first else NO_DOMAIN


_name_of: Mapping[str, Callable[[Row], str]] = {"document": lambda row: row.key, "domain": _domain}


def _slices(
    group: Sequence[Run],
    name_of: Callable[[Row], str],
    baseline: str,
    metrics: Sequence[Metric],
    names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    other, frozen = baseline_of(group, baseline), baseline_of(group)
    parts = {id(run): _parts(run, name_of) for run in group}
    labels = labels_of([run.spec for run in group])
    standings = [standing_of(run) for run in group]
    rows = []
    for name in _names(group, name_of) if names is None else names:
        cut = {id(run): _cut(run, parts[id(run)].get(name, [])) for run in group}
        lacks = missing_documents([cut[id(run)] for run in group])
        for run, label, standing, missing in zip(group, labels, standings, lacks, strict=True):
            part = cut[id(run)]
            quality = quality_of(part)
            others = cut.get(id(other)), cut.get(id(frozen))
            values = metric_values(metrics, part, *others, missing)
            rows.append(
                {
                    "slice": name,
                    "method": run.spec,
                    "label": label,
                    "ranked": standing.ranked and not missing,
                    "marks": standing.marks,
                    "valid": valid_of(run),
                    "valid_reason": valid_reason_of(run),
                    "documents_done": quality.documents if quality else 0,
                    "documents_missing": missing,
                    "tokens": quality.tokens if quality else 0,
                    "nll": quality.nll if quality else None,
                    **values,
                    "run": run.path.as_posix(),
                }
            )
    return rows


def _names(group: Sequence[Run], name_of: Callable[[Row], str]) -> list[str]:
    """The slices of any of the runs, in the order of their first documents."""
    return list(dict.fromkeys(name_of(row) for run in group for row in run.rows))


def _parts(run: Run, name_of: Callable[[Row], str]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for row in run.rows:
        parts.setdefault(name_of(row), []).append(row)
    return parts


def _cut(run: Run, rows: Sequence[Row]) -> Run:
    """The run on some of its documents. Its costs were measured on all, so the part has none."""
    return replace(run, rows=tuple(rows), summary={})


def _notes(rows: Sequence[Values], by: str) -> list[str]:
    notes = []
    if any(row["delta_ci95_low"] is not None for row in rows):
        notes.append("Δ: paired over the slice's documents; ± is its 95 % interval")
    if any(row["documents_missing"] for row in rows):
        notes.append("a row that lacks documents of its slice has no numbers")
    if any(row["marks"] for row in rows):
        notes.append("rows that are marked are not ranked in `tta-bench compare`, which says why")
    if by != "document" and any(row["documents_done"] == 1 for row in rows):
        notes.append("a slice of one document has no interval")
    return notes


def _columns(by: str, baseline: str, asked: Sequence[str]) -> list[Column]:
    shown = named(dict.fromkeys([*_SHOWN, *asked]))
    return [
        Column("slice", by, left=True),
        Column("method", "method", show=lambda row: marked(row["label"], row["marks"]), left=True),
        Column("documents_done", "documents", show=lambda row: count(row["documents_done"])),
        Column("tokens", "tokens", show=lambda row: count(row["tokens"])),
        *(
            replace(
                metric_column(metric, baseline),
                bold=False,
                show=metric.text,
                keep=metric.name in asked,
            )
            for metric in shown
        ),
        *(Column(name) for name in (*_HIDDEN, *_FACTS) if name not in asked),
        Column("run"),
    ]
