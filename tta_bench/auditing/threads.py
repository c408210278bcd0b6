"""Threads that are started while a method works: the FLOP counter does not see into them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

COMPILER = Path(torch.__file__).parent / "_inductor"
"""The compiler of PyTorch: its threads wait for programs that it compiles, and read no document."""


@contextmanager
def counted_threads() -> Iterator[list[str]]:
    """The names of the threads that are started inside the block, but for the compiler's own."""
    started: list[str] = []
    start = threading.Thread.start

    def noted(self: threading.Thread, *args: Any, **options: Any) -> None:
        if not _of_the_compiler(self):
            started.append(self.name)
        start(self, *args, **options)

    threading.Thread.start = noted  # type: ignore[method-assign]
    try:
        yield started
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]


def _of_the_compiler(thread: threading.Thread) -> bool:
    """Whether what a thread runs is written in the compiler's own files, whatever its name is."""
    target = getattr(thread, "_target", None)
    code = getattr(getattr(target, "__func__", target), "__code__", None)
    return code is not None and Path(code.co_filename).is_relative_to(COMPILER)
