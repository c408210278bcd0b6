"""A limit to the time that probes take, for methods that are slow or never return."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

LIMIT_SECONDS = 30.0
"""Limit for all probes of `check` together; with the time PyTorch takes to load, under 40 s."""

_AGAIN = 0.5  # seconds until the next interruption, in case a method has swallowed the last


class OutOfTime(BaseException):
    """The time is up. Not an `Exception`: a method that catches those must not catch this one."""


@contextmanager
def interrupted_at(deadline: float | None) -> Iterator[None]:
    """Raises OutOfTime in the block once `time.monotonic()` is past `deadline`.

    A signal raises it, so that a method need not return first; a long operation of PyTorch still
    runs to its end. Where there are no such signals (on Windows, and in threads other than the main
    one) the clock is looked at only at the start of the block.
    """
    if deadline is None:
        yield
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise OutOfTime
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, left, _AGAIN)
        yield
    finally:
        try:
            _disarm(before)
        except OutOfTime:  # it rang in this very moment; the block is done
            _disarm(before)


def _disarm(handler: Any) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)


def _ring(number: int, frame: FrameType | None) -> None:
    raise OutOfTime
