"""What parts of a run cost: a part is what one process reads of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tta_bench.cost.flop_report import FlopReport
from tta_bench.cost.timing import summary_of


@dataclass
class Reading:
    """Work whose steps are not known one by one: its tokens and its share of their time."""

    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ProbeCosts:
    """What reading a probe gave and cost, apart from what the documents cost.

    Attributes:
        fresh: sum of the losses of the fresh method in nats; None if it was not read.
        tokens: tokens scored in a reading.
        readings: how often it was read.
        seconds: the time that all readings took.
    """

    fresh: float | None
    tokens: int
    readings: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For the summary; a loss that is no finite number is unknown."""
        known = self.fresh is not None and math.isfinite(self.fresh)
        return {
            "probe_fresh_nll": self.fresh if known else None,
            "probe_tokens": self.tokens,
            "probe_readings": self.readings,
            "probe_seconds": self.seconds,
        }


@dataclass(frozen=True)
class PartCosts:
    """What one process measured of a run.

    Attributes:
        lanes: lanes of its last attempt.
        compiled: whether that was compiled.
        captured: whether its step was a CUDA graph.
        warm_up_seconds: the time of its warm-up.
        step_seconds: the time of each of its steps.
        step_tokens: the tokens that each scored.
        given_up: attempts that memory or an error ended.
        peaks: peaks of memory, by their names in a summary.
        state_bytes_per_lane: what the method keeps.
        offline_flops: FLOPs of its set-up.
        offline_seconds: the time of its set-up; None where it needs none.
        flops: the check of its FLOPs.
        probe: what its probe gave and cost; None without one.
    """

    lanes: int
    compiled: bool
    captured: bool
    warm_up_seconds: float
    step_seconds: tuple[float, ...]
    step_tokens: tuple[int, ...]
    given_up: tuple[Reading, ...]
    peaks: dict[str, int | None]
    state_bytes_per_lane: int
    offline_flops: float
    offline_seconds: float | None
    flops: FlopReport
    probe: ProbeCosts | None = None

    @property
    def seconds(self) -> float:
        """The time of all steps that count."""
        return sum(self.step_seconds) + sum(reading.seconds for reading in self.given_up)

    @property
    def tokens(self) -> int:
        """The tokens of all steps that count."""
        return sum(self.step_tokens) + sum(reading.tokens for reading in self.given_up)


def run_costs(
    parts: Sequence[PartCosts], flops_per_token: float | None, lost: Sequence[Reading] = ()
) -> dict[str, Any]:
    """The costs of a run, for its summary: times are added up, peaks are those of the worst part.

    Args:
        parts: at least one; facts of the method alone are taken from the last.
        flops_per_token: FLOPs per scored token.
        lost: what processes had read that ended before they said what it cost.
    """
    last = parts[-1]
    seconds = [value for part in parts for value in part.step_seconds]
    time = summary_of(seconds, [count for part in parts for count in part.step_tokens])
    others = [reading for part in parts for reading in part.given_up] + list(lost)
    total, tokens = time.total_seconds, time.tokens
    if others:
        total = (total or 0.0) + sum(reading.seconds for reading in others)
        tokens += sum(reading.tokens for reading in others)
    return {
        "lanes": min(part.lanes for part in parts),
        "compiled": last.compiled,
        "captured": last.captured,
        "warm_up_seconds": max(part.warm_up_seconds for part in parts),
        "seconds": total,
        "timed_tokens": tokens,
        "tokens_per_second": tokens / total if total else None,
        "step_seconds_median": time.median_seconds,
        "step_seconds_p90": time.p90_seconds,
        "step_tokens_median": time.median_tokens,
        **{name: _worst([part.peaks[name] for part in parts]) for name in last.peaks},
        "state_bytes_per_lane": last.state_bytes_per_lane,
        "offline_flops": last.offline_flops,
        "offline_seconds": last.offline_seconds,
        "flops_per_token": flops_per_token,
        **({} if last.probe is None else last.probe.to_dict()),
        **_flop_check(last.flops),
    }


def _worst(peaks: Sequence[int | None]) -> int | None:
    """The highest peak; None unless each is known."""
    known = [peak for peak in peaks if peak is not None]
    return max(known) if len(known) == len(peaks) else None


def _flop_check(report: FlopReport) -> dict[str, Any]:
    """The check of FLOPs at the widest step, for the summary."""
    seen = report.seen
    return {
        "flops_per_token_counted": None if seen is None else seen / report.shape.scored,
        "flops_check": {
            "inputs": report.shape.inputs,
            "scored": report.shape.scored,
            "past": report.shape.past,
            "analytic": report.analytic,
            "counted": report.counted,
            "invisible": report.invisible,
            "blind_ops": list(report.blind_ops),
        },
        "flops_agree": report.agrees,
        "flops_note": " ".join(report.warnings) or None,
    }
