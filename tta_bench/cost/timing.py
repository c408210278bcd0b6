"""Seconds per step, synchronised with the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TimeSummary:
    """Times of a run; all None if no step was timed.

    Attributes:
        steps: steps timed.
        tokens: tokens scored in them.
        total_seconds: their sum (time between steps is not in it).
        median_seconds: median per step.
        p90_seconds: 90th percentile per step, interpolated.
        tokens_per_second: tokens / total_seconds.
        median_tokens: median of the tokens scored in a step, all lanes together.
    """

    steps: int
    tokens: int
    total_seconds: float | None
    median_seconds: float | None
    p90_seconds: float | None
    tokens_per_second: float | None
    median_tokens: float | None


class StepTimer:
    """Times steps on a device whose work is asynchronous. Warm up before the first step."""

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    @contextmanager
    def step(self, tokens: int) -> Iterator[None]:
        """Times its body, which scores `tokens` tokens. A body that raises is not recorded."""
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
        """Drops what was timed so far (a warm-up)."""
        self.seconds.clear()
        self.tokens.clear()

    def summary(self) -> TimeSummary:
        """Of all steps so far."""
        seconds = self.seconds
        if not seconds:
            return TimeSummary(0, 0, None, None, None, None, None)
        total, tokens = sum(seconds), sum(self.tokens)
        return TimeSummary(
            steps=len(seconds),
            tokens=tokens,
            total_seconds=total,
            median_seconds=statistics.median(seconds),
            p90_seconds=_quantile(seconds, 0.9),
            tokens_per_second=tokens / total if total > 0 else None,
            median_tokens=statistics.median(self.tokens),
        )


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _quantile(values: list[float], share: float) -> float:
    """Linear interpolation between the sorted values."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
