"""Seconds per step, synchronised with the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TimeSummary:
    """Times of the steps of a run; times are None if no step was timed.

    Attributes:
        steps: number of timed steps.
        tokens: number of tokens scored in these steps.
        total_seconds: sum of the steps' times, without the time between steps.
        median_seconds: median time of a step.
        p90_seconds: 90th percentile of the time of a step, interpolated.
        tokens_per_second: tokens / total_seconds.
        median_tokens: median number of tokens scored in a step by all lanes together.
    """

    steps: int
    tokens: int
    total_seconds: float | None
    median_seconds: float | None
    p90_seconds: float | None
    tokens_per_second: float | None
    median_tokens: float | None


class StepTimer:
    """Times steps on a device that works asynchronously; warm up before the first step."""

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    @contextmanager
    def step(self, tokens: int) -> Iterator[None]:
        """Times the block, which scores `tokens` tokens; a block that raises is not recorded."""
        synchronise(self.device)
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds.append(time.perf_counter() - start)
        self.tokens.append(tokens)

    @property
    def last(self) -> float:
        """Seconds of the latest step."""
        return self.seconds[-1]

    def forget(self) -> None:
        """Drops the steps timed so far, such as a warm-up."""
        self.seconds.clear()
        self.tokens.clear()

    def summary(self) -> TimeSummary:
        """Summary of all steps so far."""
        return summary_of(self.seconds, self.tokens)


def summary_of(seconds: Sequence[float], tokens: Sequence[int]) -> TimeSummary:
    """Summary of steps, of which each took so many seconds and scored so many tokens."""
    if not seconds:
        return TimeSummary(0, 0, None, None, None, None, None)
    total, scored = sum(seconds), sum(tokens)
    return TimeSummary(
        steps=len(seconds),
        tokens=scored,
        total_seconds=total,
        median_seconds=statistics.median(seconds),
        p90_seconds=_quantile(seconds, 0.9),
        tokens_per_second=scored / total if total > 0 else None,
        median_tokens=statistics.median(tokens),
    )


def synchronise(device: torch.device) -> None:
    """Waits until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _quantile(values: Sequence[float], share: float) -> float:
    """The quantile of the values, linearly interpolated."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
