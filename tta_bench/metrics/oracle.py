"""Grades by the best possible reader, for runs on `oracle:` streams; a dash for all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError
from tta_bench.format import BREAK, DASH, fixed
from tta_bench.metrics.metric import Metric
from tta_bench.oracle.name import is_oracle
from tta_bench.statistics.best_reader import Grade, best_of, grade_of

if TYPE_CHECKING:
    from tta_bench.statistics import Estimate
    from tta_bench.store import Run


def _graded(run: Run) -> bool:
    return is_oracle(run.manifest["dataset"].get("spec"))


def _grade(run: Run, frozen: Run | None) -> Grade | None:
    try:
        return grade_of(run, frozen)
    except BenchError:
        return None  # the note says it


def _note(run: Run) -> str | None:
    if not _graded(run):
        return "no share and no regret: the best possible reader is known of oracle: streams alone"
    try:
        best_of(run)
    except BenchError as error:
        return f"no share and no regret: {error}"
    return None


def _metric(name: str, of: Callable[[Grade], float | None], title: str, **fields: Any) -> Metric:
    def value(run: Run, frozen: Run | None) -> float | None:
        grade = _grade(run, frozen)
        return None if grade is None else of(grade)

    return Metric(name, value, title, against="none", note=_note, **{"shown": False, **fields})


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _end(place: int) -> Callable[[Grade], float | None]:
    def value(grade: Grade) -> float | None:
        ends = None if grade.share is None else grade.share.interval
        return None if ends is None else ends[place]

    return value


def _share_text(row: Mapping[str, Any]) -> str:
    """`0.873 ±0.012`: the share and half its 95 % interval."""
    if row["share"] is None:
        return DASH
    low, high = row["share_ci95_low"], row["share_ci95_high"]
    half = "" if low is None else f" {BREAK}±{_three((high - low) / 2)}"
    return _three(row["share"]) + half


def _three(value: float) -> str:
    return fixed(value, 3)


ORACLE = (
    _metric(
        "share",
        lambda grade: _value(grade.share),
        f"share of {BREAK}the gain",
        summary="Share of the attainable gain, (L_none - L) / (L_none - L_best), where the best "
        "reader knows the alphabet of an oracle: stream.",
        cell=_share_text,
        better="higher",
        shown=_graded,
        narrow=7,
    ),
    _metric(
        "share_learning",
        lambda grade: _value(grade.share_learning),
        f"share, {BREAK}alphabet {BREAK}unknown",
        summary="The share where the best reader must find the alphabet, too.",
        show=_three,
        better="higher",
        shown=_graded,
        narrow=8,
    ),
    _metric(
        "share_late",
        lambda grade: _value(grade.share_late),
        f"share, {BREAK}late",
        summary="The share over the second half of each document, after a burn-in.",
        show=_three,
        better="higher",
        shown=_graded,
        narrow=7,
    ),
    _metric(
        "regret",
        lambda grade: grade.regret.value,
        f"regret {BREAK}nats/{BREAK}document",
        summary="Sum of L - L_best over a document, where the best reader knows the alphabet.",
        show=lambda value: fixed(value, 0),
        better="lower",
        shown=_graded,
        narrow=8,
    ),
    _metric(
        "regret_learning",
        lambda grade: grade.regret_learning.value,
        f"regret, {BREAK}alphabet {BREAK}unknown",
        summary="Sum of L - L_best over a document, where the best reader must find the alphabet.",
        show=lambda value: fixed(value, 0),
        better="lower",
    ),
    *(
        _metric(
            f"share_ci95_{word}",
            _end(place),
            f"share {BREAK}{word}",
            summary=f"{end} end of the 95 % interval of the share.",
            show=_three,
        )
        for place, (word, end) in enumerate((("low", "Lower"), ("high", "Upper")))
    ),
)
