"""Curves: losses over position, and the gain in slices by position and by what tokens are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tta_bench.format import fixed, listed, plural
from tta_bench.report.figure import Figure, Kind, Series, padded
from tta_bench.report.gains import Gains, Losses
from tta_bench.report.reach import BAND_REACH, crowd
from tta_bench.statistics import (
    Bucket,
    by_distance,
    by_frequency,
    by_occurrence,
    by_position,
    log_edges,
)

if TYPE_CHECKING:
    from tta_bench.report.documents import Reopened

BAND_NOTE = (
    "A point stands for all tokens from its mark to the next. Bands are 95 % intervals, documents "
    "as clusters; one that is cut off at an edge reaches further. A gain is the baseline's loss "
    "minus the method's on the same tokens: above 0 the method is better."
)
"""What holds for every curve, so that captions need not repeat it."""


def loss_figure(
    losses: Sequence[Losses], slots: Mapping[str, int], baseline: str, prefix: str = ""
) -> Figure:
    """The loss of every method over the position in the document.

    Only the baseline has a band: it shows how much documents differ, which is much the same for
    every method. Methods are told apart by the paired gain.
    """
    figure = curve_figure(
        f"{prefix}loss-by-position",
        "Loss by position in the document",
        f"The band is that of {baseline}. Documents differ more than methods do; the paired gain "
        "tells methods apart.",
        "position in the document, scored tokens",
        "nats per token",
        [(item.run.spec, over_position(item)) for item in losses],
        slots,
        "tokens",
        signed=False,
    )
    banded = min((series.slot for series in figure.series), default=0)
    series = [one if one.slot == banded else replace(one, low=(), high=()) for one in figure.series]
    return replace(figure, series=tuple(series))


def over_position(item: Losses | Gains, every: int = 1) -> list[Bucket]:
    """The curve over position; a last position that would be a bucket alone joins the one before.

    Documents cut to 4,096 tokens would end in a bucket of one token each.

    Args:
        item: losses or gains of a run.
        every: how many doublings of the position a bucket holds.
    """
    longest = max((len(vector) for vector in item.values), default=1)
    edges = log_edges(max(longest, 1))
    if len(edges) > 2 and edges[-2] == longest:
        edges = [*edges[:-2], edges[-1]]
    edges = [*edges[:-1:every], edges[-1]]
    return by_position(item.values, edges, item.clusters)


def position_figure(
    gains: Sequence[Gains], slots: Mapping[str, int], baseline: str, prefix: str = ""
) -> Figure:
    """The gain over the position in the document."""
    curves = [(item.run.spec, over_position(item)) for item in gains]
    return curve_figure(
        f"{prefix}gain-by-position",
        "Gain by position in the document",
        f"Where in a document a method is better than {baseline}.",
        "position in the document, scored tokens",
        f"gain over {baseline}, nats per token",
        curves,
        slots,
        "tokens",
    )


def token_figures(
    gains: Sequence[Gains],
    reopened: Reopened,
    slots: Mapping[str, int],
    baseline: str,
    prefix: str = "",
) -> list[Figure]:
    """The gain by frequency, by earlier occurrences and by distance of the token.

    Args:
        gains: gains of runs whose scored tokens are the last of each document.
        reopened: where the token ids come from.
        slots: the place of each method in the palette.
        baseline: the baseline's name.
        prefix: start of the figures' names.
    """
    import numpy as np

    indices = sorted({row.index for item in gains for row in item.rows})
    ids = {index: reopened.ids(index) for index in indices}
    every = [np.asarray(reopened.ids(index), np.int64) for index in range(len(reopened.documents))]
    counts = np.bincount(np.concatenate(every))
    of_run = [[ids[row.index] for row in item.rows] for item in gains]
    pairs = list(zip(gains, of_run, strict=True))
    value = f"gain over {baseline}, nats per token"
    return [
        curve_figure(
            f"{prefix}gain-by-frequency",
            "Gain by frequency of the token",
            "How often the token stands in the evaluated documents, all of them together; not in "
            "the model's training text.",
            "occurrences in the evaluated documents",
            value,
            [
                (item.run.spec, by_frequency(item.values, x, counts, clusters=item.clusters))
                for item, x in pairs
            ],
            slots,
            "occurrences",
        ),
        curve_figure(
            f"{prefix}gain-by-occurrence",
            "Gain by earlier occurrences of the token",
            "How often the same token stood earlier in its document; 0 is its first time.",
            "earlier occurrences in the document",
            value,
            [
                (item.run.spec, by_occurrence(item.values, x, clusters=item.clusters))
                for item, x in pairs
            ],
            slots,
            "earlier occurrences",
        ),
        curve_figure(
            f"{prefix}gain-by-distance",
            "Gain by distance to the last occurrence",
            "How many tokens ago the same token last stood in its document.",
            "tokens since the last occurrence",
            value,
            [
                (item.run.spec, by_distance(item.values, x, clusters=item.clusters))
                for item, x in pairs
            ],
            slots,
            "tokens ago",
            first="first",
        ),
    ]


def suffixes(gains: Sequence[Gains], reopened: Reopened) -> bool:
    """Whether the scored tokens of every document are its last, at most the first being left out.

    Some protocols of other tools leave out tokens in between; their losses have no known place.
    """
    return all(
        0 <= len(reopened.ids(row.index)) - len(value) <= 1
        for item in gains
        for row, value in zip(item.rows, item.values, strict=True)
    )


def shortened(number: int) -> str:
    """The label of a bucket's lower end: `512`, `1k` for 1,024, `1M` for 1,048,576."""
    for power, suffix in ((20, "M"), (10, "k")):
        if number >= 2**power and number % 2**power == 0:
            return f"{number >> power}{suffix}"
    return str(number)


def curve_figure(
    name: str,
    title: str,
    caption: str,
    x_title: str,
    y_title: str,
    curves: Sequence[tuple[str, Sequence[Bucket]]],
    slots: Mapping[str, int],
    noun: str,
    signed: bool = True,
    first: str = "0",
    kinds: Sequence[str] = (),
    unit: str = "nats/token",
) -> Figure:
    """A figure of curves; where buckets are kinds of tokens, `kinds` names them."""
    lows = sorted({bucket.low for _, curve in curves for bucket in curve})
    series = tuple(
        _series(spec, curve, slots[spec], lows, noun, signed, kinds, unit) for spec, curve in curves
    )
    ends = _range(series, signed, clip=not kinds)
    ticks = tuple(kinds) or tuple(first if low == 0 else shortened(low) for low in lows)
    return Figure(
        name=name,
        title=title,
        caption=f"{caption} {_told(series, ends, ticks)}".rstrip(),
        x_title=x_title,
        y_title=y_title,
        series=(*series, *_beyond(series, ends)),
        y_range=ends,
        ticks=ticks,
        zero=signed,
    )


def _series(
    spec: str,
    curve: Sequence[Bucket],
    slot: int,
    lows: Sequence[int],
    noun: str,
    signed: bool,
    kinds: Sequence[str],
    unit: str,
) -> Series:
    ends = [bucket.estimate.interval or (None, None) for bucket in curve]
    return Series(
        "curve",
        spec,
        slot,
        tuple(float(lows.index(bucket.low)) for bucket in curve),
        tuple(bucket.estimate.value for bucket in curve),
        tuple(low for low, _ in ends),
        tuple(high for _, high in ends),
        tuple(_hover(spec, bucket, noun, signed, kinds, unit) for bucket in curve),
    )


def _hover(
    spec: str, bucket: Bucket, noun: str, signed: bool, kinds: Sequence[str], unit: str
) -> tuple[str, ...]:
    span = f"{bucket.low:,}"
    if bucket.high - bucket.low > 1:
        span += f" to {bucket.high - 1:,}"
    where = f"{noun} {span}" if noun in ("tokens", "documents") else f"{span} {noun}"
    if kinds:
        where = kinds[bucket.low]
    elif bucket.low == 0:
        where = "the token's first occurrence"
    sign = "+" if signed else ""
    value = f"{fixed(bucket.estimate.value, 4, sign)} {unit}"
    if bucket.estimate.interval is not None:
        low, high = bucket.estimate.interval
        value += f" [{fixed(low, 4, sign)}, {fixed(high, 4, sign)}]"
    sizes = f"{plural(bucket.tokens, 'token')} in {plural(bucket.estimate.documents, 'document')}"
    return spec, where, value, sizes


def _range(series: Sequence[Series], zero: bool, clip: bool) -> tuple[float, float]:
    """A range with all points in it, or their crowd alone, and bands as far as BAND_REACH."""
    points = [y for item in series for y in item.y]
    low, high = crowd(points) if clip else (min(points), max(points))
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    reach = BAND_REACH * (high - low)
    ends = [y for item in series for y in (*item.low, *item.high) if y is not None]
    seen = [min(max(y, low - reach), high + reach) for y in ends]
    return padded(min([low, *seen]), max([high, *seen]))


def _beyond(series: Sequence[Series], ends: tuple[float, float]) -> list[Series]:
    """An arrow at the edge for each point that lies beyond it."""
    low, high = ends
    return [
        arrows
        for item in series
        for arrows in (
            _arrows("above", item, high, [y > high for y in item.y]),
            _arrows("below", item, low, [y < low for y in item.y]),
        )
        if arrows.x
    ]


def _arrows(kind: Kind, item: Series, edge: float, outside: Sequence[bool]) -> Series:
    places = [place for place, out in enumerate(outside) if out]
    return Series(
        kind,
        item.label,
        item.slot,
        tuple(item.x[place] for place in places),
        (edge,) * len(places),
        hover=tuple(item.hover[place] for place in places),
    )


def _told(series: Sequence[Series], ends: tuple[float, float], ticks: Sequence[str]) -> str:
    """`Arrows, beyond the plot: fwl at 1 (-0.77).`; nothing if all points are inside."""
    low, high = ends
    points = [
        f"{item.label} at {ticks[int(x)]} ({fixed(y, 2)})"
        for item in series
        for x, y in zip(item.x, item.y, strict=True)
        if not low <= y <= high
    ]
    return f"Arrows, beyond the plot: {listed(points)}." if points else ""
