"""A grid as a picture, drawn by matplotlib on white."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from tta_bench.extras import require
from tta_bench.report.grid import Cell, Grid, text_of
from tta_bench.report.markup import visible
from tta_bench.report.palette import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

GAIN, LOSS = (0, 114, 178), (213, 94, 0)  # those of the page on white
CELL_INCHES = (0.72, 0.34)
"""Width and height of a cell; wider where the heading of a column is."""
LETTER_INCHES = 0.085


def drawn_grid(grid: Grid) -> Canvas:
    """The grid as a figure of matplotlib.

    Raises:
        UsageError: matplotlib is not installed.
    """
    require("matplotlib", extra="report", what="a figure")
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    columns, rows = len(grid.columns), len(grid.rows)
    names, heads = [visible(name) for name in grid.rows], [visible(name) for name in grid.columns]
    left = LETTER_INCHES * max(map(len, names)) + 0.2
    wide = max(CELL_INCHES[0], LETTER_INCHES * max(map(len, heads)))
    inner = columns * wide, rows * CELL_INCHES[1]
    width = left + inner[0] + 0.2
    caption = textwrap.wrap(visible(grid.caption), int(width / 0.062))
    top, bottom = 0.6 + 0.15 * len(caption), 0.15
    height = top + inner[1] + bottom
    with mpl.rc_context({"font.family": "sans-serif", "text.parse_math": False}):
        canvas = Canvas(figsize=(width, height))
        axes = canvas.add_axes((left / width, bottom / height, inner[0] / width, inner[1] / height))
        colours = [[_colour(cell) for cell in line] for line in grid.cells]
        axes.imshow(colours, aspect="auto", interpolation="nearest")
        for y, line in enumerate(grid.cells):
            for x, cell in enumerate(line):
                axes.text(x, y, text_of(cell), ha="center", va="center", fontsize=8.5, color=INK)
        axes.set_xticks(range(columns), heads, fontsize=8.5)
        axes.set_yticks(range(rows), names, fontsize=9)
        axes.tick_params(length=0, labeltop=True, labelbottom=False, labelcolor=INK)
        axes.spines[:].set_visible(False)
        edge = 0.2 / width
        canvas.text(edge, 1 - 0.22 / height, grid.title, fontsize=12, fontweight="bold", color=INK)
        lines = "\n".join(caption)
        canvas.text(edge, 1 - 0.3 / height, lines, fontsize=8, color=MUTED, va="top")
    return canvas


def _colour(cell: Cell | None) -> list[float]:
    """Red, green and blue of a cell as it shows on white."""
    strength = 0.0 if cell is None else cell.strength
    parts = GAIN if cell is None or cell.value >= 0 else LOSS
    return [1 - strength * (1 - part / 255) for part in parts]
