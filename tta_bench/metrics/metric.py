"""The metric object: a function of a stored run and its baseline, and the column that shows it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tta_bench.errors import MetricError
from tta_bench.format import DASH, number

if TYPE_CHECKING:
    from tta_bench.store import Run

_NAME = re.compile(r"[a-z][a-z0-9_]*(-[0-9]+)?")


def _nothing(run: Run) -> None:
    """No sentence about any run."""


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    `value` sees stored rows alone: `run.rows` holds the summed loss, tokens, bytes and words of
    each document, `run.cost(name)` what the run cost, and `run.nll(row)` the loss of each token
    where it was stored.

        def worst(run, baseline):
            means = [row.nll / row.tokens for row in run.rows if row.status == "done"]
            return max(means, default=None)

        register_metric(
            Metric("worst_document", worst, "worst document", "nats/token", better="lower")
        )

    Attributes:
        name: key in JSON, CSV and Parquet, and what `--metric` takes: lower case, digits and
            underscores. A quantity with a unit names it (`peak_process_bytes`); one that is
            scaled to a number bears it behind a dash (`longppl-512`).
        value: the metric of a run; None where it is not known. The second argument is the run that
            it is compared with, None if there is no such run; the baseline's own row gets itself.
        title: column heading; `{baseline}` stands for the baseline's name, and BREAK marks where a
            narrow terminal may break the line.
        unit: second line of the heading.
        summary: one sentence for `tta-bench list metrics`.
        show: text of a known value.
        cell: text of a cell that lays several values side by side, from all values of the row;
            it replaces `show`.
        better: which direction is better; None if neither is.
        bold: whether the best ranked value is set in bold.
        shown: whether tables have the column without `--metric`; a function decides by the first
            run of the table. JSON, CSV and Parquet hold every metric.
        against: `none` compares with the frozen model even where `--baseline` names another method.
        narrow: widest a cell may get on a narrow terminal, in characters.
        note: what a reader must know of a run's value, a sentence under tables that show the
            metric; None where there is nothing to say.
        lacks: why a run has no value for want of something that a command can make, a sentence
            that names the command; None where nothing is wanting.

    Raises:
        MetricError: the name is not a plain word.
    """

    name: str
    value: Callable[[Run, Run | None], float | None]
    title: str
    unit: str = ""
    summary: str = ""
    show: Callable[[float], str] = number
    cell: Callable[[Mapping[str, Any]], str] | None = None
    better: Literal["lower", "higher"] | None = None
    bold: bool = True
    shown: bool | Callable[[Run], bool] = True
    against: Literal["baseline", "none"] = "baseline"
    narrow: int = 10
    note: Callable[[Run], str | None] = _nothing
    lacks: Callable[[Run], str | None] = _nothing

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise MetricError(
                f"'{self.name}' cannot be a metric's name: use lower case, digits and underscores."
            )

    def of(self, run: Run, baseline: Run | None) -> float | None:
        """The value for a run; None if it is not known or not finite.

        Raises:
            MetricError: the function fails, or returns something else than a number.
        """
        try:
            found = self.value(run, baseline)
        except Exception as error:
            raise MetricError(
                f"the metric '{self.name}' fails on {run.path}: {type(error).__name__}: {error}."
            ) from error
        if found is None or isinstance(found, int):
            return found
        try:
            value = float(found)
        except (TypeError, ValueError):
            raise MetricError(
                f"the metric '{self.name}' returns {type(found).__name__} for {run.path}; it must "
                "return a number or None."
            ) from None
        return value if math.isfinite(value) else None

    def text(self, row: Mapping[str, Any]) -> str:
        """The cell of a row that holds the values of all metrics by name."""
        if self.cell is not None:
            return self.cell(row)
        value = row[self.name]
        return DASH if value is None else self.show(value)

    def in_table(self, run: Run) -> bool:
        """Whether a table whose first run this is has the column without being asked for it."""
        return self.shown(run) if callable(self.shown) else self.shown
