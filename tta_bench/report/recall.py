"""What methods remember, by how long ago it was told: tables for `show`, curves for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError
from tta_bench.format import BREAK, DASH, fixed
from tta_bench.report.curves import curve_figure, shortened
from tta_bench.report.figure import Figure
from tta_bench.statistics import Bucket, Estimate
from tta_bench.statistics.answers import Recalled, asks, recalled_by_lag
from tta_bench.tables.column import Column, Values
from tta_bench.tables.labels import labels_of
from tta_bench.tables.ranking import missing_documents
from tta_bench.tables.settings import by_setting, titles_of
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Run

RECALL_NOTE = (
    "Answers alone: tokens that the document had told before it asked for them, by how many tokens "
    "ago that was. A loss can fall while no answer is remembered, so the share of exact answers, "
    "whose token was the most probable one, stands beside it."
)
_KINDS = (
    ("nll", "loss of answers by lag", "nats per token of answers, low is better"),
    ("exact", "exact answers by lag", "share of answers' tokens that were the most probable"),
    ("gained", "gain on answers by lag", "nats per token less than where it was never told"),
)


def recall_tables(runs: Sequence[Run]) -> tuple[list[Table], list[str]]:
    """Tables of loss, exact answers and gain by lag for each setting whose documents ask.

    Returns:
        The tables, and a sentence for each run that is left out.
    """
    tables: list[Table] = []
    sentences: list[str] = []
    groups = by_setting(runs)
    for group, title in zip(groups, titles_of(groups), strict=True):
        found, missing = _recalled(group)
        sentences += missing
        labels = dict(zip(map(id, group), labels_of([run.spec for run in group]), strict=True))
        for kind, what, note in _KINDS:
            some = [pair for pair in found if any(getattr(one, kind) for one in pair[1])]
            if some:
                tables.append(_table(f"{title} · {what}", kind, some, labels, note))
    return tables, sentences


def recall_figures(
    runs: Sequence[Run], slots: Mapping[str, int], prefix: str = ""
) -> tuple[list[Figure], list[str]]:
    """Curves of loss, exact answers and gain by lag, and a sentence for each run left out.

    Args:
        runs: the runs of one setting.
        slots: the place of each method in the palette.
        prefix: start of the figures' names.
    """
    found, sentences = _recalled(runs)
    titles = {
        "nll": ("Loss of answers by lag", "nats per token", "nats/token"),
        "exact": ("Exact answers by lag", "share of tokens", "of the tokens"),
        "gained": ("Gain on answers by lag", "control minus loss, nats per token", "nats/token"),
    }
    figures = []
    for kind, (title, axis, unit) in titles.items():
        curves = [(run.spec, _buckets(by_lag, kind)) for run, by_lag in found]
        curves = [(spec, buckets) for spec, buckets in curves if buckets]
        if curves:
            figures.append(
                curve_figure(
                    f"{prefix}answers-{kind}-by-lag",
                    title,
                    "",
                    "tokens since it was told",
                    axis,
                    curves,
                    slots,
                    "tokens ago",
                    signed=kind == "gained",
                    unit=unit,
                )
            )
    return figures, sentences


def _recalled(group: Sequence[Run]) -> tuple[list[tuple[Run, list[Recalled]]], list[str]]:
    """The answers by lag of the runs that have done all documents, where documents ask."""
    if not group or not asks(group[0]):
        return [], []
    found, sentences = [], []
    for run, missing in zip(group, missing_documents(group), strict=True):
        try:
            by_lag = [] if missing else recalled_by_lag(run)
        except BenchError as error:
            sentences.append(f"{run.spec} has no answers by lag: {error}")
            continue
        if by_lag:
            found.append((run, by_lag))
        else:
            sentences.append(f"{run.spec} has no answers by lag: it lacks documents.")
    return found, sentences


def _buckets(by_lag: Sequence[Recalled], kind: str) -> list[Bucket]:
    estimates = [(one, getattr(one, kind)) for one in by_lag]
    return [Bucket(one.low, one.high, one.tokens, e) for one, e in estimates if e is not None]


def _table(
    title: str,
    kind: str,
    found: Sequence[tuple[Run, list[Recalled]]],
    labels: dict[int, str],
    note: str,
) -> Table:
    rows: list[dict[str, Any]] = [
        {
            "method": run.spec,
            "label": labels[id(run)],
            "run": run.path.as_posix(),
            "of": kind,
            "lags": {one.low: _values(one, kind) for one in by_lag},
            **{f"lag_{one.low}": _value(getattr(one, kind)) for one in by_lag},
        }
        for run, by_lag in found
    ]
    lows = sorted({low for row in rows for low in row["lags"]})
    columns = [
        Column("method", "method", left=True, show=lambda row: str(row["label"])),
        *(Column(f"lag_{low}", shortened(low), show=_cell(low, kind), narrow=7) for low in lows),
    ]
    notes = [f"{note}; a column is of answers told so many tokens ago, up to twice as many"]
    if any(value["control"] is not None for row in rows for value in row["lags"].values()):
        notes.append("in brackets: the same answers in the same texts where they were never told")
    elif kind == "gained":
        notes.append("± is the 95 % interval, texts as clusters")
    return Table(title, columns, rows, notes)


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _values(one: Recalled, kind: str) -> dict[str, Any]:
    estimate = getattr(one, kind)
    control = {"nll": one.control, "exact": one.control_exact, "gained": None}[kind]
    interval = None if estimate is None else estimate.interval
    return {
        "low": one.low,
        "high": one.high,
        "tokens": one.tokens,
        "documents": 0 if estimate is None else estimate.documents,
        "value": _value(estimate),
        "ci95": None if interval is None else list(interval),
        "control": _value(control),
    }


def _cell(low: int, kind: str) -> Callable[[Values], str]:
    def show(row: Values) -> str:
        found = row["lags"].get(low)
        if found is None or found["value"] is None:
            return DASH
        text = fixed(found["value"], 2, "+" if kind == "gained" else "")
        if found["control"] is not None:
            return f"{text} {BREAK}({fixed(found['control'], 2)})"
        if kind == "gained" and found["ci95"] is not None:
            text += f" {BREAK}±{fixed((found['ci95'][1] - found['ci95'][0]) / 2, 2)}"
        return text

    return show
