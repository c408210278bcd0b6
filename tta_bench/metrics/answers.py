"""Metrics of what is remembered, for runs on documents that ask for what they told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError
from tta_bench.format import BREAK, fixed
from tta_bench.metrics.metric import Metric
from tta_bench.oracle.name import is_planted
from tta_bench.statistics.answers import Recalled, asks, recalled

if TYPE_CHECKING:
    from tta_bench.statistics import Estimate
    from tta_bench.store import Run


def _note(run: Run) -> str | None:
    if not asks(run):
        return "no answers: planted:, oracle:recall and oracle:copy documents alone ask for any"
    try:
        recalled(run)
    except BenchError as error:
        return f"no answers: {error}"
    return None


def _metric(
    name: str, of: Callable[[Recalled], Estimate | None], title: str, **fields: Any
) -> Metric:
    def value(run: Run, baseline: Run | None) -> float | None:
        try:
            found = recalled(run)
        except BenchError:
            return None  # the note says it
        estimate = None if found is None else of(found)
        return None if estimate is None else estimate.value

    return Metric(name, value, title, note=_note, **{"shown": asks, "narrow": 8, **fields})


ANSWERS = (
    _metric(
        "answer_nll",
        lambda found: found.nll,
        f"answers {BREAK}nats/{BREAK}token",
        summary="Nats per token of answers that the document had told before it asked for them.",
        show=lambda value: fixed(value, 3),
        better="lower",
    ),
    _metric(
        "answer_accuracy",
        lambda found: found.exact,
        f"answers {BREAK}exact",
        summary="Share of tokens of answers that were the most probable token.",
        show=lambda value: fixed(value, 3),
        better="higher",
    ),
    _metric(
        "answer_gain",
        lambda found: found.gained,
        f"answers {BREAK}gain",
        unit="nats/token",
        summary="What answers cost less than in the same text where they had never been told.",
        show=lambda value: fixed(value, 3, "+"),
        better="higher",
        shown=lambda run: is_planted(run.manifest["dataset"].get("spec")),
    ),
)
