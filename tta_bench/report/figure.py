"""The figure object: what is drawn, apart from how; the page draws it, and so does the PNG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["curve", "points", "front", "guide", "above", "below"]


@dataclass(frozen=True)
class Series:
    """One line, or one set of points, of a method.

    Attributes:
        kind: `curve` is a line with markers and a band; `points` are markers alone; `front` is a
            neutral staircase; `guide` a dotted line through points of the series' own colour;
            `above` and `below` are arrows at an edge, for points that lie beyond it.
        label: name of the method, for the legend.
        slot: place of the method in the palette.
        x: x of each point; in a figure with `ticks` the number of the tick.
        y: y of each point.
        low: lower end of each point's interval, None where there is none; empty for no band.
        high: upper end of each point's interval.
        hover: lines of text that each point shows when it is pointed at.
        tags: short text beside each point; empty for none.
        hollow: whether each marker is hollow; empty if none is.
    """

    kind: Kind
    label: str
    slot: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    hover: tuple[tuple[str, ...], ...] = ()
    tags: tuple[str, ...] = ()
    hollow: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One plot.

    Attributes:
        name: plain text, unique in a report: the stem of the PNG's name.
        title: heading of the plot.
        caption: what a reader must know to read it.
        x_title: title of the x axis, with the unit.
        y_title: title of the y axis, with the unit.
        series: lines and sets of points, in the order of drawing.
        ticks: labels of buckets, which stand at 0, 1, ...; empty for an axis of values.
        x_ticks: values to mark on an axis of values, each with its label; empty leaves them to
            whoever draws.
        x_log: whether the x axis is logarithmic.
        x_range: both ends of an axis of values; None for where its points lie.
        x_prefixes: whether numbers on the x axis have decimal prefixes (`10M`).
        y_range: lower and upper end of the y axis at first.
        zero: whether a line marks y = 0.
    """

    name: str
    title: str
    caption: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    y_range: tuple[float, float]
    ticks: tuple[str, ...] = ()
    x_ticks: tuple[tuple[float, str], ...] = ()
    x_log: bool = False
    x_range: tuple[float, float] | None = None
    x_prefixes: bool = False
    zero: bool = False


def padded(low: float, high: float, part: float = 0.06) -> tuple[float, float]:
    """The range with a margin on either side."""
    margin = (high - low or abs(high) or 1.0) * part
    return low - margin, high + margin
