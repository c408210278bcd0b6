"""From stored runs to the content of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tta_bench.errors import BenchError
from tta_bench.format import listed
from tta_bench.report.content import Family, Report, Setting
from tta_bench.report.costs import context_of, cost_figures, families
from tta_bench.report.curves import loss_figure, position_figure, suffixes, token_figures
from tta_bench.report.documents import Reopen, once
from tta_bench.report.drift import drift_figures
from tta_bench.report.excerpts import Excerpt, excerpts_of
from tta_bench.report.figure import Figure
from tta_bench.report.gains import Gains, all_losses, gains_of
from tta_bench.report.key_tokens import key_figures
from tta_bench.report.notes import audit_table, manifest_table, validity_table
from tta_bench.report.own import own_figures
from tta_bench.report.palette import slots
from tta_bench.report.recall import recall_figures
from tta_bench.report.regret import regret_figures
from tta_bench.report.shares import share_grid
from tta_bench.report.tuning import tuning_figures
from tta_bench.store.groups import slug
from tta_bench.store.jsonable import without_private_paths
from tta_bench.tables.compare import compare_tables
from tta_bench.tables.settings import (
    BASELINE,
    baseline_label,
    baseline_of,
    by_setting,
    require_baseline,
    titles_of,
)
from tta_bench.tables.slices import slice_tables
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Run

MOST_ROWS = 2000
"""Most rows of a table of documents; more would make the page heavy."""


def build_report(
    runs: Sequence[Run],
    baseline: str = BASELINE,
    metrics: Sequence[str] = (),
    *,
    reopen: Reopen,
) -> Report:
    """The content of a report on stored runs.

    Args:
        runs: stored runs, of one or several groups.
        baseline: name or spec of the method that the others are compared with.
        metrics: names of metrics to show beside those that are always shown.
        reopen: opens the documents of a manifest again.

    Raises:
        UsageError: no run is of the baseline, or there is no such metric.
        MetricError: a metric fails.
    """
    require_baseline(runs, baseline)
    palette = slots(runs, baseline)
    begun, unfinished = _begun(runs)
    groups = families(begun)
    titles = titles_of(groups) if len(groups) > 1 else [""]
    whole = []
    for number, (group, title) in enumerate(zip(groups, titles, strict=True), start=1):
        prefix = f"{number}-" if len(groups) > 1 else ""
        figures, left_out = cost_figures(group, palette, prefix)
        settings = _settings(group, baseline, metrics, palette, prefix, once(reopen))
        whole.append(Family(title, tuple(figures), tuple(left_out), tuple(settings)))
    shares = share_grid([setting for family in whole for setting in family.settings])
    return Report(titles_of([begun])[0], baseline, palette, tuple(whole), tuple(unfinished), shares)


def _begun(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs of settings of which a document is done, and a sentence for each other setting.

    Its tables would be empty. If no setting has a document, all stay: they say why.
    """
    groups = by_setting(runs)
    empty = [not any(row.status == "done" for run in group for row in run.rows) for group in groups]
    if all(empty):
        return list(runs), []
    begun = [run for group, none in zip(groups, empty, strict=True) if not none for run in group]
    sentences = []
    for group, title, none in zip(groups, titles_of(groups), empty, strict=True):
        if none:
            states = listed(f"{run.spec} ({run.status})" for run in group)
            sentences.append(f"{title} has no document that is done: {states}.")
    return begun, sentences


def _settings(
    runs: Sequence[Run],
    baseline: str,
    metrics: Sequence[str],
    palette: dict[str, int],
    prefix: str,
    reopen: Reopen,
) -> list[Setting]:
    groups = by_setting(runs)
    known = baseline_of(runs, baseline) is not None
    chosen = baseline if known else BASELINE  # another family has it
    parts = zip(
        groups,
        titles_of(groups),
        compare_tables(runs, chosen, metrics=metrics, resampled=False),
        slice_tables(runs, "document", chosen, most=MOST_ROWS),
        strict=True,
    )
    settings = []
    for group, title, summary, documents in parts:
        own = f"{prefix}{slug(context_of(group[0]))}-" if context_of(group[0]) else prefix
        figures, regret, excerpts, left_out = _by_token(group, chosen, palette, own, reopen)
        figures += own_figures(group, palette, own)
        recall, sentences = recall_figures(group, palette, own)
        tuning, tuned = tuning_figures(group, palette, own)
        drift, missing = drift_figures(group, palette, own)
        settings.append(
            Setting(
                title,
                summary,
                tuple(figures),
                tuple(regret),
                tuple(excerpts),
                _with_one_document(documents),
                validity_table(group),
                audit_table(group),
                manifest_table(group),
                tuple(group),
                tuple(without_private_paths([*left_out, *sentences, *missing])),
                tuple(recall),
                tuple(tuning),
                tuple(tuned),
                tuple(drift),
            )
        )
    return settings


def _with_one_document(documents: Table) -> Table:
    """The table of documents without the column that says 1 in each row."""
    columns = [column for column in documents.columns if column.key != "documents_done"]
    return replace(documents, columns=columns)


def _by_token(
    group: Sequence[Run], baseline: str, palette: dict[str, int], prefix: str, reopen: Reopen
) -> tuple[list[Figure], list[Figure], list[Excerpt], list[str]]:
    """Curves, slices, regret and excerpts of one setting, and a sentence for what is missing."""
    losses, left_out = all_losses(group)
    if not losses:
        return (
            [],
            [],
            [],
            ["No run has the losses of single tokens here: no curves, slices or excerpts."],
        )
    called = baseline_label(group, baseline)
    figures = [loss_figure(losses, palette, called, prefix)]
    regret, sentences = regret_figures(losses, palette, prefix)
    left_out += sentences
    other = baseline_of(group, baseline)
    theirs = next((item for item in losses if item.run is other), None)
    if theirs is None:
        left_out.append(f"No slices or excerpts: {called} has no losses here to compare with.")
        return figures, regret, [], left_out
    gains: list[Gains] = []
    for item in losses:
        if item is not theirs:
            try:
                gains.append(gains_of(item, theirs))
            except BenchError as error:
                left_out.append(str(error))
    if not gains:
        return figures, regret, [], left_out
    figures.append(position_figure(gains, palette, called, prefix))
    of_key, sentences = key_figures(gains, theirs.run, palette, called, prefix)
    figures += of_key
    left_out += sentences
    try:
        reopened = reopen(group[0].manifest)
        if not suffixes(gains, reopened):
            name = group[0].manifest["protocol"].get("name")
            raise BenchError(f"the protocol {name} leaves tokens unscored in between.")
        figures += token_figures(gains, reopened, palette, called, prefix)
        return figures, regret, excerpts_of(gains, reopened), left_out
    except BenchError as error:
        left_out.append(f"No slices by token and no excerpts: {error}")
        return figures, regret, [], left_out
