"""From stored runs to all that a report shows; page and PNGs are drawn from this alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError
from tta_bench.report.costs import context_of, cost_figures, families
from tta_bench.report.curves import loss_figure, position_figure, suffixes, token_figures
from tta_bench.report.excerpts import Excerpt, excerpts_of
from tta_bench.report.figure import Figure
from tta_bench.report.gains import Gains, all_losses, gains_of
from tta_bench.report.notes import manifest_table, validity_table
from tta_bench.report.palette import slots
from tta_bench.store.groups import slug
from tta_bench.store.jsonable import without_private_paths
from tta_bench.tables.compare import compare_tables
from tta_bench.tables.settings import (
    BASELINE,
    baseline_of,
    by_setting,
    require_baseline,
    titles_of,
)
from tta_bench.tables.slices import slice_tables
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.report.texts import Reopen, Texts
    from tta_bench.store import Run

MOST_ROWS = 2000
"""Of the table of documents; a longer one would make the page heavy."""


@dataclass(frozen=True)
class Chapter:
    """Runs that can be compared: the same model, documents and protocol.

    Attributes:
        title: model and dataset, and what sets it apart from the other chapters.
        summary: the table with tests.
        figures: curves and slices; empty where there are no losses of single tokens.
        excerpts: of the documents where methods gain and lose most.
        documents: a row for each document and method.
        validity: what the probes said.
        manifest: what the runs share.
        runs: themselves.
        left_out: a sentence for everything that could not be shown.
    """

    title: str
    summary: Table
    figures: tuple[Figure, ...]
    excerpts: tuple[Excerpt, ...]
    documents: Table
    validity: Table
    manifest: Table
    runs: tuple[Run, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Chapters that differ in context alone, with the plots they share.

    Attributes:
        title: of the plots; empty where the report has one family.
        figures: quality against FLOPs, time and memory.
        left_out: why a plot or a run is missing from them.
        chapters: one or more.
    """

    title: str
    figures: tuple[Figure, ...]
    left_out: tuple[str, ...]
    chapters: tuple[Chapter, ...]


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes:
        title: model and dataset of the first chapter.
        baseline: the method that the others are compared with.
        slots: the place of each method in the palette.
        families: one or more.
    """

    title: str
    baseline: str
    slots: dict[str, int]
    families: tuple[Family, ...]

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in the order of the page."""
        return [
            figure
            for family in self.families
            for figure in (
                *family.figures,
                *(one for chapter in family.chapters for one in chapter.figures),
            )
        ]

    @property
    def left_out(self) -> list[str]:
        """Every sentence about what is missing, with the chapter's title if there are several."""
        chapters = [chapter for family in self.families for chapter in family.chapters]
        costs = [text for family in self.families for text in family.left_out]
        return costs + [
            f"{chapter.title}: {text}" if len(chapters) > 1 else text
            for chapter in chapters
            for text in chapter.left_out
        ]


def build_report(runs: Sequence[Run], baseline: str = BASELINE, *, reopen: Reopen) -> Report:
    """Everything that the runs have to say.

    Args:
        runs: stored runs, of one or several groups.
        baseline: name or spec of the method that the others are compared with.
        reopen: opens the documents of a manifest again, as `tta_bench.evaluation.reopen` does.

    Raises:
        UsageError: no run is of the baseline.
    """
    require_baseline(runs, baseline)
    palette = slots(runs, baseline)
    groups = families(runs)
    titles = titles_of(groups) if len(groups) > 1 else [""]
    whole = []
    for number, (group, title) in enumerate(zip(groups, titles, strict=True), start=1):
        prefix = f"{number}-" if len(groups) > 1 else ""
        figures, left_out = cost_figures(group, palette, prefix)
        chapters = _chapters(group, baseline, palette, prefix, _once(reopen))
        whole.append(Family(title, tuple(figures), tuple(left_out), tuple(chapters)))
    return Report(titles_of([list(runs)])[0], baseline, palette, tuple(whole))


def _once(reopen: Reopen) -> Reopen:
    """Chapters of a family have the same documents: they are opened, or not to be had, once."""
    outcomes: list[Texts | BenchError] = []

    def remembered(manifest: dict[str, Any]) -> Texts:
        if not outcomes:
            try:
                outcomes.append(reopen(manifest))
            except BenchError as error:
                outcomes.append(error)
        if isinstance(outcomes[0], BenchError):
            raise outcomes[0]
        return outcomes[0]

    return remembered


def _chapters(
    runs: Sequence[Run], baseline: str, palette: dict[str, int], prefix: str, reopen: Reopen
) -> list[Chapter]:
    groups = by_setting(runs)
    known = baseline_of(runs, baseline) is not None
    chosen = baseline if known else BASELINE  # another family has it
    parts = zip(
        groups,
        titles_of(groups),
        compare_tables(runs, chosen),
        slice_tables(runs, "document", chosen),
        strict=True,
    )
    chapters = []
    for group, title, summary, documents in parts:
        own = f"{prefix}{slug(context_of(group[0]))}-" if context_of(group[0]) else prefix
        figures, excerpts, left_out = _by_token(group, chosen, palette, own, reopen)
        columns = [column for column in documents.columns if column.key != "documents_done"]
        documents = replace(documents, columns=columns)
        if len(documents.rows) > MOST_ROWS:
            left = f"the first {MOST_ROWS:,} of {len(documents.rows):,} rows"
            notes = [*documents.notes, f"{left}; `tta-bench compare --by document` has all"]
            documents = replace(documents, rows=documents.rows[:MOST_ROWS], notes=notes)
        chapters.append(
            Chapter(
                title,
                summary,
                tuple(figures),
                tuple(excerpts),
                documents,
                validity_table(group),
                manifest_table(group),
                tuple(group),
                tuple(without_private_paths(left_out)),
            )
        )
    return chapters


def _by_token(
    group: Sequence[Run], baseline: str, palette: dict[str, int], prefix: str, reopen: Reopen
) -> tuple[list[Figure], list[Excerpt], list[str]]:
    """Curves, slices and excerpts of comparable runs, and a sentence for whatever is missing."""
    losses, left_out = all_losses(group)
    if not losses:
        return [], [], ["No run has the losses of single tokens here: no curves, slices or texts."]
    figures = [loss_figure(losses, palette, baseline, prefix)]
    other = baseline_of(group, baseline)
    theirs = next((item for item in losses if item.run is other), None)
    if theirs is None:
        left_out.append(f"No slices or texts: {baseline} has no losses here to compare with.")
        return figures, [], left_out
    gains: list[Gains] = []
    for item in losses:
        if item is not theirs:
            try:
                gains.append(gains_of(item, theirs))
            except BenchError as error:
                left_out.append(str(error))
    if not gains:
        return figures, [], left_out
    figures.append(position_figure(gains, palette, baseline, prefix))
    try:
        again = reopen(group[0].manifest)
        if not suffixes(gains, again):
            name = group[0].manifest["protocol"].get("name")
            raise BenchError(f"the protocol {name} leaves tokens unscored in between.")
        figures += token_figures(gains, again, palette, baseline, prefix)
        return figures, excerpts_of(gains, again), left_out
    except BenchError as error:
        left_out.append(f"No slices by token and no texts: {error}")
        return figures, [], left_out
