"""Curves by position as tables: a row for each method, with a line of blocks and numbers.

Numbers can be read aloud, copied and put into a page; curves of several methods drawn over each
other with characters cannot be told apart without colours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError
from tta_bench.format import BREAK, DASH, fixed
from tta_bench.report.curves import over_position, shortened
from tta_bench.report.gains import Gains, Losses, all_losses, gains_of
from tta_bench.statistics import Bucket
from tta_bench.tables.column import Column, Values
from tta_bench.tables.labels import labels_of
from tta_bench.tables.settings import BASELINE, baseline_label, baseline_of, by_setting, titles_of
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Run

BLOCKS = "▁▂▃▄▅▆▇█"
FEW = 0.1
"""The part of all values on either side that has no say in the height of blocks."""
DOUBLINGS = 2
"""Doublings of the position that a number stands for; a block stands for one."""


def position_tables(runs: Sequence[Run], baseline: str = BASELINE) -> tuple[list[Table], list[str]]:
    """A table of losses and one of paired gains for each setting, and what is missing in them.

    Args:
        runs: stored runs, of one or several settings.
        baseline: name or spec of the method that the others are compared with.

    Returns:
        The tables, and a sentence for each run that has no curve.
    """
    tables: list[Table] = []
    sentences: list[str] = []
    groups = by_setting(runs)
    for group, title in zip(groups, titles_of(groups), strict=True):
        losses, missing = all_losses(group)
        sentences += missing
        if not losses:
            continue
        labels = dict(zip(map(id, group), labels_of([run.spec for run in group]), strict=True))
        tables.append(_table(f"{title} · loss by position", losses, labels, nats_text))
        other = baseline_of(group, baseline)
        theirs = next((item for item in losses if item.run is other), None)
        gained: list[Gains] = []
        for item in losses:
            if theirs is None or item is theirs:
                continue
            try:
                gained.append(gains_of(item, theirs))
            except BenchError as error:
                sentences.append(str(error))
        if gained:
            called = f"gain over {baseline_label(group, baseline)} by position"
            tables.append(_table(f"{title} · {called}", gained, labels, gain_text))
    return tables, sentences


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A block for each value, the lowest for `low` and less, the highest for `high` and more."""
    step = (high - low) / (len(BLOCKS) - 1)
    inside = [min(max(value, low), high) - low for value in values]
    return "".join(BLOCKS[round(height / step) if step else 0] for height in inside)


def _table(
    title: str,
    items: Sequence[Losses | Gains],
    labels: dict[int, str],
    text: Callable[[Values], str],
) -> Table:
    gained = isinstance(items[0], Gains)
    curves = [
        Curve(item.run, over_position(item), over_position(item, DOUBLINGS)) for item in items
    ]
    notes = [
        f"nats per token, {'high' if gained else 'low'} is better; a column begins at the position "
        "that heads it",
        "a block stands for a doubling of the position: the lowest for {low} and less, the highest "
        "for {high} and more",
    ]
    if gained:
        notes.append("paired over the same tokens; ± is the 95 % interval, documents as clusters")
    return curve_table(title, "gain" if gained else "loss", curves, labels, text, notes)


@dataclass(frozen=True)
class Curve:
    """One row of a table of curves.

    Attributes:
        run: whose curve it is.
        blocks: a bucket for each block of its line.
        numbers: a bucket for each number.
    """

    run: Run
    blocks: Sequence[Bucket]
    numbers: Sequence[Bucket]


def curve_table(
    title: str,
    of: str,
    curves: Sequence[Curve],
    labels: Mapping[int, str],
    text: Callable[[Values], str],
    notes: Sequence[str],
) -> Table:
    """A table with a row for each curve.

    Args:
        title: its title.
        of: what the curves are of, for JSON.
        curves: at least one, with at least one bucket each.
        labels: what the method of each run is called, by the run's `id`.
        text: a bucket's number.
        notes: with `{low}` and `{high}` for what the lowest and the highest block stand for.
    """
    values = [[bucket.estimate.value for bucket in curve.blocks] for curve in curves]
    low, high = _ends([value for line in values for value in line])
    rows: list[dict[str, Any]] = [
        {
            "method": curve.run.spec,
            "label": labels[id(curve.run)],
            "run": curve.run.path.as_posix(),
            "of": of,
            "curve": sparkline(line, low, high),
            "buckets": [_values(bucket) for bucket in curve.numbers],
            **{f"from_{bucket.low}": bucket.estimate.value for bucket in curve.numbers},
        }
        for curve, line in zip(curves, values, strict=True)
    ]
    places = sorted({bucket.low for curve in curves for bucket in curve.numbers})
    columns = [
        Column("method", "method", left=True, show=lambda row: str(row["label"])),
        Column("curve", "curve", left=True, keep=True),
        *(
            Column(f"from_{place}", shortened(place), show=_cell(place, text), narrow=7)
            for place in places
        ),
    ]
    ends = {"low": fixed(low, 2), "high": fixed(high, 2)}
    return Table(title, columns, rows, [note.format(**ends) for note in notes])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """What the lowest and the highest block stand for: first tokens would flatten all others."""
    rising = sorted(values)
    few = int(FEW * len(rising))
    return rising[few], rising[-1 - few]


def _values(bucket: Bucket) -> dict[str, Any]:
    estimate = bucket.estimate
    return {
        "low": bucket.low,
        "high": bucket.high,
        "tokens": bucket.tokens,
        "documents": estimate.documents,
        "nats_per_token": estimate.value,
        "ci95": None if estimate.interval is None else list(estimate.interval),
    }


def _cell(place: int, text: Callable[[Values], str]) -> Callable[[Values], str]:
    def show(row: Values) -> str:
        found = next((bucket for bucket in row["buckets"] if bucket["low"] == place), None)
        return DASH if found is None else text(found)

    return show


def nats_text(bucket: Values) -> str:
    """The value of a bucket."""
    return fixed(bucket["nats_per_token"], 2)


def gain_text(bucket: Values) -> str:
    """The value of a bucket with its sign, and half its interval if it has one."""
    ends = bucket["ci95"]
    half = "" if ends is None else f" {BREAK}±{fixed((ends[1] - ends[0]) / 2, 2)}"
    return fixed(bucket["nats_per_token"], 2, "+") + half
