"""Threads that are started while a method works: the FLOP counter does not see into them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counted_threads() -> Iterator[list[str]]:
    """The names of the threads that are started inside the block."""
    started: list[str] = []
    start = threading.Thread.start

    def noted(self: threading.Thread, *args: Any, **options: Any) -> None:
        started.append(self.name)
        start(self, *args, **options)

    threading.Thread.start = noted  # type: ignore[method-assign]
    try:
        yield started
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
