"""What each method learned of each stream: the share of the attainable gain, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from tta_bench.oracle.name import PREFIX
from tta_bench.report.content import Setting
from tta_bench.report.grid import Cell, Grid
from tta_bench.tables.column import Values

LEAST_STREAMS = 2
"""A single stream has its column in the table, which a picture would only repeat."""


def share_grid(settings: Sequence[Setting]) -> Grid | None:
    """The share of the attainable gain, if the settings are of several streams; else None.

    Rows go from the method that learns most over all streams to the one that learns least.
    """
    graded = [s for s in settings if any(_share(row) is not None for row in s.summary.rows)]
    if len(graded) < LEAST_STREAMS:
        return None
    cells: dict[str, dict[int, Cell]] = {}
    for place, setting in enumerate(graded):
        for row in setting.summary.rows:
            share = _share(row)
            if share is not None:
                cells.setdefault(row["method"], {})[place] = Cell(
                    share, row["share_ci95_low"], row["share_ci95_high"], bool(row["ranked"])
                )
    methods = sorted(cells, key=lambda m: -sum(cell.value for cell in cells[m].values()))
    return Grid(
        name="share-by-stream",
        title="Share of the attainable gain",
        caption="0 is the frozen model, 1 the best reader that knows the alphabet; orange is "
        "harm. Brackets: not ranked. A dash: not read, or nothing to gain.",
        columns=tuple(_columns(graded)),
        rows=tuple(methods),
        cells=tuple(
            tuple(cells[method].get(place) for place in range(len(graded))) for method in methods
        ),
    )


def _share(row: Values) -> float | None:
    return row.get("share")


def _columns(settings: Sequence[Setting]) -> list[str]:
    """The names of the streams, or the whole titles where two settings are of one stream."""
    specs = [str(setting.runs[0].manifest["dataset"].get("spec")) for setting in settings]
    names = [spec.removeprefix(PREFIX) for spec in specs]
    return names if len(set(names)) == len(names) else [setting.title for setting in settings]
