"""The options of commands that show stored runs: which metrics, and plugins that define some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tta_bench.cli.options import shown

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help=shown(
            "Metric to show as well, see [bold]list metrics[/bold]; repeat it for several.", "none"
        ),
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help=shown(
            "Python file that registers metrics, which are shown; repeat it for several.", "none"
        ),
    ),
]


def chosen_metrics(metrics: list[str] | None, plugins: list[Path] | None) -> list[str]:
    """The names of the metrics asked for by name and by plugin, each once.

    Raises:
        UsageError: there is no such metric or file.
        MetricError: a plugin cannot be imported or registers no metric.
    """
    from tta_bench.metrics import add_plugin, named

    by_plugin = [name for file in plugins or [] for name in add_plugin(file)]
    return [metric.name for metric in named(dict.fromkeys([*(metrics or []), *by_plugin]))]
