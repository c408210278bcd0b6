"""Metrics of a run against its baseline, paired over the documents that both have done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tta_bench.format import BREAK, DASH, fixed
from tta_bench.metrics.metric import Metric
from tta_bench.statistics import PairedDifference, never_reset, paired_difference

if TYPE_CHECKING:
    from tta_bench.store import Run


def difference_of(run: Run, baseline: Run | None) -> PairedDifference | None:
    """The paired difference to the baseline; None without one, and for the baseline itself."""
    return None if baseline is None or run is baseline else _paired(run, baseline)


def p_of_pair(run: Run, other: Run) -> float | None:
    """The p of the paired difference between any two runs; None where it cannot be tested.

    Nothing else is kept of it: a table of 200 methods has 19,900 pairs.
    """
    return None if run is other else _difference(run, other).p_t


@lru_cache(maxsize=128)
def _paired(run: Run, baseline: Run) -> PairedDifference:
    return _difference(run, baseline)


def _difference(run: Run, baseline: Run) -> PairedDifference:
    dependent = never_reset(run) or never_reset(baseline)
    return paired_difference(run.done, baseline.done, dependent=dependent)


def delta_text(row: Mapping[str, Any]) -> str:
    """`-0.1234 ±0.0056`: the difference and half its 95 % interval.

    One document has no interval; of several that count as one the interval is a dash.
    """
    low, high = row["delta_ci95_low"], row["delta_ci95_high"]
    half = "" if low is None else f" {BREAK}±{fixed((high - low) / 2, 4)}"
    if low is None and row["delta_nats_per_token"] is not None:
        half = f" {BREAK}±{DASH}" if row["documents_done"] > 1 else ""
    return fixed(row["delta_nats_per_token"], 4, "+") + half


def _ratio_text(row: Mapping[str, Any]) -> str:
    if row["perplexity_ratio"] is None:
        return DASH
    low, high = row["perplexity_ratio_ci95_low"], row["perplexity_ratio_ci95_high"]
    between = "" if low is None else f" {BREAK}[{fixed(low, 3)}, {BREAK}{fixed(high, 3)}]"
    return fixed(row["perplexity_ratio"], 3) + between


def _metric(
    name: str, of: Callable[[PairedDifference], float | None], title: str, **fields: Any
) -> Metric:
    """A metric of the paired difference, shown on request unless `fields` say otherwise."""

    def value(run: Run, baseline: Run | None) -> float | None:
        pair = difference_of(run, baseline)
        return None if pair is None else of(pair)

    return Metric(name, value, title, **{"shown": False, **fields})


def _end(name: str, of: str, place: int, interval: str) -> Metric:
    """One end of an interval.

    Args:
        name: the metric's name.
        of: what the interval is of.
        place: 0 for the lower end, 1 for the upper.
        interval: attribute of `PairedDifference`.
    """

    def value(pair: PairedDifference) -> float | None:
        ends = getattr(pair, interval)
        return None if ends is None else ends[place]

    title = f"{of.removeprefix('the ')} {BREAK}{('low', 'high')[place]}"
    about = f"{('Lower', 'Upper')[place]} end of the 95 % interval of {of}."
    return _metric(name, value, title, summary=about)


DIFFERENCE = (
    _metric(
        "delta_nats_per_token",
        lambda pair: pair.delta,
        f"Δ nats/{BREAK}token {BREAK}vs {{baseline}}",
        summary="Nats per token minus the baseline's, over the same tokens.",
        cell=delta_text,
        better="lower",
        shown=True,
        narrow=8,
    ),
    _metric(
        "perplexity_ratio",
        lambda pair: pair.ratio,
        f"perplexity {BREAK}ratio",
        summary="Perplexity divided by the baseline's, over the same tokens.",
        cell=_ratio_text,
        better="lower",
        bold=False,
        narrow=8,
    ),
    _end("delta_ci95_low", "Δ", 0, "interval"),
    _end("delta_ci95_high", "Δ", 1, "interval"),
    _metric(
        "delta_standard_error",
        lambda pair: pair.standard_error,
        f"Δ standard {BREAK}error",
        summary="Standard error of Δ with documents as clusters.",
    ),
    _metric(
        "delta_macro_nats_per_token",
        lambda pair: pair.macro_delta,
        f"macro Δ {BREAK}nats/token",
        summary="Mean over documents of the difference in nats per token.",
        show=lambda value: fixed(value, 4, "+"),
        better="lower",
    ),
    _end("perplexity_ratio_ci95_low", "the perplexity ratio", 0, "ratio_interval"),
    _end("perplexity_ratio_ci95_high", "the perplexity ratio", 1, "ratio_interval"),
)
