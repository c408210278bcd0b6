"""Metrics of streams that drift: what a method that is never reset carries along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError
from tta_bench.format import BREAK, DASH, fixed
from tta_bench.metrics.metric import Metric
from tta_bench.statistics import never_reset
from tta_bench.statistics.drift import Drift, Gained, drift_of

if TYPE_CHECKING:
    from tta_bench.statistics import Estimate
    from tta_bench.store import Run


def _drift(run: Run) -> Drift | None:
    try:
        return drift_of(run)
    except BenchError:
        return None  # the note says it


def _shown(part: Callable[[Drift], object]) -> Callable[[Run], bool]:
    """Whether tables of a run show a column: where it has what the column is of."""

    def shown(run: Run) -> bool:
        drift = _drift(run)
        return drift is not None and bool(part(drift))

    return shown


def _estimate(gained: Gained | None) -> Estimate | None:
    return None if gained is None else gained.estimate


def _estimates(
    name: str, of: Callable[[Drift], Gained | None], title: str, **fields: Any
) -> tuple[Metric, ...]:
    """A metric with both ends of its interval."""

    def value(run: Run, baseline: Run | None) -> float | None:
        drift = _drift(run)
        found = None if drift is None else _estimate(of(drift))
        return None if found is None else found.value

    def end(place: int) -> Callable[[Run, Run | None], float | None]:
        def value(run: Run, baseline: Run | None) -> float | None:
            drift = _drift(run)
            found = None if drift is None else _estimate(of(drift))
            return None if found is None or found.interval is None else found.interval[place]

        return value

    def note(run: Run) -> str | None:
        drift = _drift(run)
        found = None if drift is None else _estimate(of(drift))
        if found is None:
            return _why_not(run)
        about = f"{name.replace('_', ' ')}: nats per token, above 0 what was read before helps"
        if found.reason is not None:
            return f"{about}; {found.reason}"
        return f"{about}; ± is the 95 % interval over 10 blocks of consecutive documents"

    ends = tuple(
        Metric(
            f"{name}_ci95_{word}",
            end(place),
            f"{name.replace('_', ' ')} {BREAK}{word}",
            summary=f"{side} end of the 95 % interval of {name}, over blocks of documents.",
            show=_signed,
            shown=False,
        )
        for place, (word, side) in enumerate((("low", "Lower"), ("high", "Upper")))
    )
    first = Metric(
        name, value, title, cell=_with_half(name), better="higher", narrow=8, note=note, **fields
    )
    return (first, *ends)


def _why_not(run: Run) -> str | None:
    if not never_reset(run):
        return "no forward transfer, no return: the method is reset at each document"
    try:
        drift = drift_of(run)
    except BenchError as error:
        return f"no forward transfer, no return: {error}"
    return None if drift is None else drift.lacks


def _with_half(name: str) -> Callable[[Mapping[str, Any]], str]:
    """`+0.0123 ±0.0045`: the value and half its interval."""

    def text(row: Mapping[str, Any]) -> str:
        low, high = row[f"{name}_ci95_low"], row[f"{name}_ci95_high"]
        half = "" if low is None else f" {BREAK}±{fixed((high - low) / 2, 4)}"
        return DASH if row[name] is None else _signed(row[name]) + half

    return text


def _signed(value: float) -> str:
    return fixed(value, 4, "+")


def _retention(run: Run, baseline: Run | None) -> float | None:
    drift = _drift(run)
    retained = None if drift is None else drift.retained
    return None if retained is None else retained.gains[-1]


def _retention_note(run: Run) -> str | None:
    if _retention(run, None) is None:
        return "no retention: there is no probe, or it could not be read; --probe names one"
    document = run.manifest["probe"].get("document")
    return (
        f"retention: on {document}, read after the last document without being learned; nats per "
        "token, below 0 the method has lost what it could; one reading has no interval"
    )


DRIFT = (
    *_estimates(
        "forward_transfer",
        lambda drift: drift.forward,
        f"forward {BREAK}transfer",
        summary="Nats per token by which the first 1,024 tokens of a document are below a fresh "
        "method's, after all documents before it.",
        shown=never_reset,
    ),
    Metric(
        "retention",
        _retention,
        "retention",
        summary="Nats per token by which the probe is below a fresh method's, at the end of the "
        "stream.",
        show=_signed,
        better="higher",
        narrow=9,
        shown=_shown(lambda drift: drift.retained),
        note=_retention_note,
    ),
    *_estimates(
        "return_gain",
        lambda drift: drift.returned,
        f"return {BREAK}vs first",
        summary="Nats per token by which a text that comes again, with others in between, is below "
        "its first reading in the stream.",
        shown=_shown(lambda drift: drift.returned.rows),
    ),
    *_estimates(
        "return_gain_fresh",
        lambda drift: drift.returned_fresh,
        f"return {BREAK}vs fresh",
        summary="The same against a fresh method.",
        shown=_shown(lambda drift: drift.returned.rows),
    ),
)
