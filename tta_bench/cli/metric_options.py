"""The options of commands that show stored runs: which metrics, and plugins that define some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tta_bench.cli.options import shown

if TYPE_CHECKING:
    from tta_bench.store import Run

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help=shown(
            "Metric to show as well, see [bold]list metrics[/bold]; repeat it for several.",
            "no more",
        ),
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help=shown(
            "Python file that registers metrics, which are shown; repeat it for several.", "no file"
        ),
    ),
]


Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="NAME,...",
        help=shown(
            "Columns to show, by heading in any case or its beginning; metrics of [bold]list "
            "metrics[/bold], too.",
            "all that the table has",
        ),
    ),
]


def require_metrics(metrics: Sequence[str], runs: Sequence[Run]) -> None:
    """Raises UsageError where a metric that was asked for lacks what every run needs for it."""
    from tta_bench.errors import UsageError
    from tta_bench.metrics import named

    for metric in named(metrics):
        lacks = [metric.lacks(run) for run in runs]
        if lacks and lacks[0] is not None and None not in lacks:
            raise UsageError(lacks[0])


def chosen_metrics(
    metrics: list[str] | None, plugins: list[Path] | None, columns: Sequence[str] = ()
) -> list[str]:
    """The names of the metrics asked for by name, by plugin and as a column, each once.

    Raises:
        UsageError: there is no such metric or file.
        MetricError: a plugin cannot be imported or registers no metric.
    """
    from tta_bench.metrics import add_plugin, named
    from tta_bench.tables.choosing import metrics_in

    by_plugin = [name for file in plugins or [] for name in add_plugin(file)]
    asked = [*(metrics or []), *by_plugin, *metrics_in(columns)]
    return [metric.name for metric in named(dict.fromkeys(asked))]
