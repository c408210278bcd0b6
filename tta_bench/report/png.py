"""The figures of a report as PNG files, drawn by matplotlib on white."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.extras import require
from tta_bench.report.figure import Figure, Series, padded
from tta_bench.report.grid_png import drawn_grid
from tta_bench.report.markup import visible
from tta_bench.report.palette import INK, LIGHT, MUTED, SYMBOLS, symbol, tag_above
from tta_bench.store.files import explained, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from tta_bench.report.content import Report

INCHES = (7.2, 4.4)
DPI = 200
COLOURS = 192
"""A file's palette has as many: bands that overlap have many shades."""
MARGIN = 0.12  # inches
CAPTION_WIDTH = 105  # characters
WIDEST_LABELS = {3: 28, 2: 50}
"""Longest label, in characters, of which three or two fit side by side in the legend."""
LEGEND_ROWS, ROW_INCHES = 6, 0.2
"""Rows of a legend that the picture has room for, and what each row more adds to its height."""
_RULE, _GRID, _FRONT = "#c3c8cf", "#eceef1", "#d3d7dd"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a method's spec may hold a dollar sign
}


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Writes every figure of the report; returns the files.

    Raises:
        UsageError: matplotlib is not installed.
        BenchError: the folder cannot be written.
    """
    require("matplotlib", extra="report", what="the report")
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = []

    def write(name: str, canvas: Canvas) -> None:
        files.append(folder / f"{name}.png")
        write_atomically(files[-1], png_of(canvas))

    if report.shares is not None:
        write(report.shares.name, drawn_grid(report.shares))
    for figure in report.figures:
        write(figure.name, drawn(figure))
    return files


def drawn(figure: Figure) -> Canvas:
    """The figure as one of matplotlib.

    Raises:
        UsageError: matplotlib is not installed.
    """
    require("matplotlib", extra="report", what="a figure")
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
        canvas = Canvas(figsize=INCHES, layout=layout)
        _draw(canvas, figure)
    return canvas


def png_of(canvas: Canvas, dpi: int = DPI) -> bytes:
    """The content of a PNG file with a palette, which takes a third of the bytes of one without."""
    import matplotlib as mpl
    from PIL import Image

    drawing, memory = io.BytesIO(), io.BytesIO()
    with mpl.rc_context(_STYLE):
        canvas.savefig(drawing, dpi=dpi, format="png")
    # No date and no version: the same runs give the same file.
    Image.open(drawing).convert("RGB").quantize(COLOURS).save(memory, format="png", optimize=True)
    return memory.getvalue()


def _draw(canvas: Any, figure: Figure) -> None:
    axes = canvas.add_subplot()
    caption = textwrap.wrap(visible(figure.caption), CAPTION_WIDTH)
    pad = 10 + 11 * len(caption)  # points
    axes.set_title(figure.title, loc="left", fontweight="bold", fontsize=12, pad=pad)
    axes.annotate(
        "\n".join(caption),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 7),
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
    )
    axes.set_xlabel(figure.x_title)
    axes.set_ylabel(figure.y_title)
    if figure.zero:
        axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    for series in figure.series:
        _series(axes, series)
    axes.set_ylim(*figure.y_range)
    if figure.ticks:
        axes.set_xticks(range(len(figure.ticks)), figure.ticks)
    else:
        _value_axis(axes, figure)
    if figure.x_range:
        axes.set_xlim(*figure.x_range)
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = next((n for n, widest in WIDEST_LABELS.items() if longest <= widest), 1)
    more = max(0, math.ceil(len(labels) / columns) - LEGEND_ROWS)
    canvas.set_size_inches(INCHES[0], INCHES[1] + more * ROW_INCHES)
    canvas.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def _series(axes: Any, series: Series) -> None:
    colour = LIGHT[series.slot % len(LIGHT)]
    marker = SYMBOLS[symbol(series.slot)]
    label = visible(series.label)
    if series.kind == "front":
        axes.step(series.x, series.y, where="post", color=_FRONT, linewidth=5, zorder=1)
    elif series.kind == "guide":
        axes.plot(series.x, series.y, ":", color=colour, linewidth=1.2, zorder=2)
    elif series.kind == "points":
        _points(axes, series, colour, marker, label)
    elif series.kind in ("above", "below"):
        _arrows(axes, series, colour)
    else:
        line = {"color": colour, "linewidth": 1.8, "marker": marker, "markersize": 5}
        axes.plot(series.x, series.y, label=label, zorder=3, **line)
        if series.low:
            low, high = _ends(series.low), _ends(series.high)
            axes.fill_between(series.x, low, high, color=colour, alpha=0.12, linewidth=0, zorder=2)


def _ends(values: Sequence[float | None]) -> list[float]:
    """A band has a gap where a point has no interval."""
    return [math.nan if value is None else value for value in values]


def _points(axes: Any, series: Series, colour: str, marker: str, label: str) -> None:
    style = {"marker": marker, "s": 64, "edgecolors": colour, "linewidths": 1.6, "zorder": 4}
    axes.scatter([], [], facecolors=colour, label=label, **style)  # the legend's is never hollow
    above = tag_above(series.slot)
    for x, y, tag, hollow in zip(series.x, series.y, series.tags, series.hollow, strict=True):
        axes.scatter([x], [y], facecolors="white" if hollow else colour, **style)
        axes.annotate(
            tag,
            (x, y),
            xytext=(0, 7 if above else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=7.5,
            color=MUTED,
            annotation_clip=True,
        )


def _arrows(axes: Any, series: Series, colour: str) -> None:
    marker = "^" if series.kind == "above" else "v"
    style = {"marker": marker, "s": 64, "linewidths": 1.6, "zorder": 4, "clip_on": False}
    axes.scatter(series.x, series.y, facecolors="white", edgecolors=colour, **style)


def _value_axis(axes: Any, figure: Figure) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

    if figure.x_log:
        axes.set_xscale("log")
    if figure.x_ticks:
        places, labels = zip(*figure.x_ticks, strict=True)
        axes.set_xticks(places, labels)
        axes.xaxis.set_minor_locator(NullLocator())
        return
    if figure.x_log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        largest = max(x for series in figure.series for x in series.x)
        axes.set_xlim(0, padded(0, largest)[1])
    if figure.x_prefixes:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
