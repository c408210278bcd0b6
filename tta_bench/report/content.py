"""The content of a report: what the page shows and what the PNG files are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.report.excerpts import Excerpt
from tta_bench.report.figure import Figure
from tta_bench.report.grid import Grid
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Run


@dataclass(frozen=True)
class Setting:
    """The runs of one setting (same model, documents and protocol), and what is shown of them.

    Attributes:
        title: model and dataset, and what sets this setting apart from the others.
        summary: the table with tests.
        figures: curves and slices; empty without the losses of single tokens.
        regret: curves against the best possible reader; empty where nobody knows it.
        recall: curves of answers by their lag; empty where documents ask for none.
        excerpts: parts of the documents in which methods gain and lose most.
        documents: a table with a row for each document and method.
        validity: what probes and audit said of each run.
        audit: every finding of the audits; None if no run was audited.
        manifest: what the runs share.
        runs: the runs themselves.
        tuning: curves of what the values of these rows were chosen by.
        tuned: how they were chosen, a sentence for each row.
        drift: curves over the stream; empty where methods are reset at each document.
        left_out: a sentence for everything that could not be shown.
    """

    title: str
    summary: Table
    figures: tuple[Figure, ...]
    regret: tuple[Figure, ...]
    excerpts: tuple[Excerpt, ...]
    documents: Table
    validity: Table
    audit: Table | None
    manifest: Table
    runs: tuple[Run, ...]
    left_out: tuple[str, ...]
    recall: tuple[Figure, ...] = ()
    tuning: tuple[Figure, ...] = ()
    tuned: tuple[str, ...] = ()
    drift: tuple[Figure, ...] = ()

    @property
    def every_figure(self) -> tuple[Figure, ...]:
        """All figures, in the order of the page."""
        return (*self.figures, *self.regret, *self.recall, *self.drift, *self.tuning)


@dataclass(frozen=True)
class Family:
    """Settings that differ in context alone, with the figures they share.

    Attributes:
        title: heading of the family; empty if the report has only one.
        figures: quality against FLOPs, time and memory.
        left_out: why a figure or a run is missing from them.
        settings: one or more.
    """

    title: str
    figures: tuple[Figure, ...]
    left_out: tuple[str, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes:
        title: model and dataset of the first setting.
        baseline: the method that the others are compared with.
        slots: the place of each method in the palette.
        families: one or more.
        unfinished: a sentence for each setting of which no document is done.
        shares: what each method learned of each stream; None unless there are several streams.
    """

    title: str
    baseline: str
    slots: dict[str, int]
    families: tuple[Family, ...]
    unfinished: tuple[str, ...] = ()
    shares: Grid | None = None

    @property
    def settings(self) -> list[Setting]:
        """Every setting, in the order of the page."""
        return [setting for family in self.families for setting in family.settings]

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in the order of the page."""
        return [
            figure
            for family in self.families
            for figure in (
                *family.figures,
                *(one for setting in family.settings for one in setting.every_figure),
            )
        ]

    @property
    def left_out(self) -> list[str]:
        """Every sentence about what is missing, with the setting's title if there are several."""
        costs = [text for family in self.families for text in family.left_out]
        return [*self.unfinished, *costs] + [
            f"{setting.title}: {text}" if len(self.settings) > 1 else text
            for setting in self.settings
            for text in setting.left_out
        ]
