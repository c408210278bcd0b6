"""Curves over the stream, of methods that are never reset: as figures and as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tta_bench.errors import BenchError
from tta_bench.report.curves import curve_figure
from tta_bench.report.figure import Figure
from tta_bench.report.position import Curve, curve_table, gain_text, nats_text
from tta_bench.statistics import never_reset
from tta_bench.statistics.drift import (
    Along,
    Drift,
    drift_of,
    forward_along,
    losses_along,
    retention_along,
)
from tta_bench.tables.labels import labels_of
from tta_bench.tables.settings import by_setting, titles_of
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Run

DRIFT_NOTE = (
    "These methods are never reset: each document is read with what was kept of all before it. A "
    "point stands for the documents from its mark to the next. There are no bands: documents of "
    "one stream depend on each other."
)
NUMBERS = 5
"""Numbers in a row of a table; a line of blocks has up to four times as many."""


class _Kind(NamedTuple):
    name: str
    title: str
    caption: str
    of: Callable[[Run, Drift], Along | None]
    signed: bool


_KINDS = (
    _Kind(
        "loss",
        "loss over the stream",
        "Documents differ more than methods do.",
        lambda run, drift: losses_along(run),
        signed=False,
    ),
    _Kind(
        "forward-transfer",
        "forward transfer over the stream",
        "What the first 1,024 tokens of a document gain on a fresh method.",
        lambda run, drift: forward_along(drift),
        signed=True,
    ),
    _Kind(
        "retention",
        "retention over the stream",
        "What the probe, read after a document without being learned, gains on a fresh method.",
        lambda run, drift: retention_along(drift),
        signed=True,
    ),
)


def drift_figures(
    runs: Sequence[Run], slots: Mapping[str, int], prefix: str = ""
) -> tuple[list[Figure], list[str]]:
    """The figures of one setting, and a sentence for what is missing; nothing under a reset.

    Args:
        runs: runs of one setting.
        slots: the place of each method in the palette.
        prefix: start of the figures' names.
    """
    curves, sentences = _curves(runs)
    figures = []
    for kind, found in curves:
        drawn = [(run.spec, along.curve(_length(runs))) for run, along in found]
        figures.append(
            curve_figure(
                f"{prefix}{kind.name}-over-stream",
                kind.title.capitalize(),
                kind.caption,
                "document of the stream",
                f"{'gain, ' if kind.signed else ''}nats per token",
                drawn,
                slots,
                "documents",
                signed=kind.signed,
            )
        )
    return figures, sentences


def drift_tables(runs: Sequence[Run]) -> tuple[list[Table], list[str]]:
    """The tables of each setting whose methods are never reset, and what is missing in them.

    Args:
        runs: stored runs, of one or several settings.
    """
    tables: list[Table] = []
    sentences: list[str] = []
    groups = by_setting(runs)
    for group, title in zip(groups, titles_of(groups), strict=True):
        curves, missing = _curves(group)
        sentences += missing
        labels = dict(zip(map(id, group), labels_of([run.spec for run in group]), strict=True))
        documents = _length(group)
        for kind, found in curves:
            rows = [
                Curve(run, along.curve(documents), along.curve(documents, NUMBERS))
                for run, along in found
            ]
            text = gain_text if kind.signed else nats_text
            notes = [
                f"nats per token, {'high' if kind.signed else 'low'} is better; a column begins at "
                "the document of the stream that heads it",
                "the lowest block stands for {low} and less, the highest for {high} and more",
                "no intervals: documents of one stream depend on each other",
            ]
            table = curve_table(f"{title} · {kind.title}", kind.title, rows, labels, text, notes)
            tables.append(table)
    return tables, sentences


def _curves(runs: Sequence[Run]) -> tuple[list[tuple[_Kind, list[tuple[Run, Along]]]], list[str]]:
    """What there is of each kind, and a sentence for each run that lacks some."""
    drifts: list[tuple[Run, Drift]] = []
    sentences: list[str] = []
    for run in runs:
        if not never_reset(run) or not any(row.status == "done" for row in run.rows):
            continue
        try:
            drift = drift_of(run)
        except BenchError as error:
            sentences.append(f"{run.spec} has no curves over the stream: {error}")
            continue
        assert drift is not None  # it is never reset
        drifts.append((run, drift))
        if drift.lacks is not None:
            sentences.append(f"{run.spec}: {drift.lacks}.")
    found = []
    for kind in _KINDS:
        pairs = [(run, kind.of(run, drift)) for run, drift in drifts]
        known = [(run, along) for run, along in pairs if along is not None and along.numbers]
        if known:
            found.append((kind, known))
    return found, sentences


def _length(runs: Sequence[Run]) -> int:
    """Documents of the stream, as far as any of the runs has come."""
    return max((row.index + 1 for run in runs for row in run.rows), default=1)
