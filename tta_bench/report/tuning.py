"""Tuning curves: the loss on the tuning documents against each value that was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tta_bench.format import fixed, listed
from tta_bench.report.figure import Figure, Series, padded
from tta_bench.report.reach import near
from tta_bench.store.groups import slug
from tta_bench.store.tuning import TunedParameter, TunedTrial, Tuning, tuning_of
from tta_bench.tables.tuned import tuned_text

if TYPE_CHECKING:
    from tta_bench.store import Run

TUNING_NOTE = (
    "Values were chosen by the loss on tuning documents, of which none is reported. The filled "
    "point is the choice; along a line the other parameters are as chosen."
)

MOST_TICKS = 9
"""Marks on an axis whose labels do not touch, at least."""

_Curve = tuple["Run", TunedParameter, list[tuple[float, TunedTrial]]]


def tuning_figures(
    runs: Sequence[Run], slots: Mapping[str, int], prefix: str = ""
) -> tuple[list[Figure], list[str]]:
    """A figure for each parameter that was tuned, and a sentence on how for each tuned run.

    Args:
        runs: runs of one setting.
        slots: the place of each method in the palette.
        prefix: start of the figures' names.
    """
    sentences = []
    curves: dict[str, list[_Curve]] = {}
    for run in runs:
        tuning = tuning_of(run.manifest)
        if tuning is None:
            continue
        sentences.append(f"{run.spec}: {tuned_text(tuning)}.")
        for parameter in tuning.parameters:
            line = _line(tuning, parameter) if parameter.scale else []
            if len(line) > 1:
                name = parameter.label.rpartition(".")[2]
                curves.setdefault(name, []).append((run, parameter, line))
    return [_figure(name, some, slots, prefix) for name, some in curves.items()], sentences


def _line(tuning: Tuning, parameter: TunedParameter) -> list[tuple[float, TunedTrial]]:
    """The trials that differ from the chosen one in this parameter alone, by its value."""
    chosen = {k: v for k, v in tuning.values.items() if k != parameter.name}
    return sorted(
        (
            (float(trial.values[parameter.name]), trial)
            for trial in tuning.trials
            if trial.loss is not None
            and parameter.name in trial.values
            and {k: v for k, v in trial.values.items() if k != parameter.name} == chosen
        ),
        key=lambda pair: pair[0],
    )


def _figure(name: str, curves: Sequence[_Curve], slots: Mapping[str, int], prefix: str) -> Figure:
    values = [value for _, _, line in curves for value, _ in line]
    losses = [trial.loss or 0.0 for _, _, line in curves for _, trial in line]
    top = near(losses)
    zero = min((value for value in values if value > 0), default=1.0) / 10
    series = []
    for run, parameter, line in curves:
        x = tuple(value or zero for value, _ in line)
        y = tuple(trial.loss or 0.0 for _, trial in line)
        tuning = tuning_of(run.manifest)
        chosen = tuning.values.get(parameter.name) if tuning else None
        taken = [trial.values[parameter.name] == chosen for _, trial in line]
        series.append(Series("guide", run.spec, slots[run.spec], x, y))
        series.append(
            Series(
                "points",
                run.spec,
                slots[run.spec],
                x,
                y,
                hover=tuple(
                    (trial.spec, f"{parameter.label} {value:g}", f"{loss:.4f} nats/token")
                    for (value, trial), loss in zip(line, y, strict=True)
                ),
                tags=tuple("chosen" if one else "" for one in taken),
                hollow=tuple(not one for one in taken),
            )
        )
    far = [
        f"{trial.spec} ({fixed(trial.loss, 2)})"
        for _, _, line in curves
        for _, trial in line
        if (trial.loss or 0.0) > top
    ]
    return Figure(
        name=f"{prefix}tuning-{slug(name)}",
        title=f"Tuning of {name}",
        caption=f"Above the plot: {listed(far)}." if far else "",
        x_title=name,
        y_title="nats per token, tuning documents",
        series=tuple(series),
        y_range=padded(min(losses), top, 0.1),
        x_ticks=_ticks(values, zero),
        x_log=True,
    )


def _ticks(values: Sequence[float], zero: float) -> tuple[tuple[float, str], ...]:
    """A mark at the values that were tried, as many as stand well apart; 0 stands at `zero`."""
    places = sorted({value or zero: f"{value:g}" for value in values}.items())
    apart = (math.log(places[-1][0]) - math.log(places[0][0])) / MOST_TICKS
    ticks: list[tuple[float, str]] = []
    for place, label in places:
        if not ticks or math.log(place) - math.log(ticks[-1][0]) >= apart:
            ticks.append((place, label))
    return tuple(ticks)
