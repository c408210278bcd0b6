"""Ctrl-C during a training: the step in progress is finished, so that a checkpoint can be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


class Interrupt:
    """Turns the first Ctrl-C inside a `with` block into a wish; the second ends it as usual.

    Args:
        say: called with a message for the user.

    Attributes:
        wanted: whether Ctrl-C was pressed.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.wanted = False
        self._usual: Any = None

    def __enter__(self) -> Interrupt:
        listens = threading.current_thread() is threading.main_thread()
        # Where Ctrl-C is ignored, as in a background job, it stays ignored.
        if listens and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._usual = signal.signal(signal.SIGINT, self._wish)
        return self

    def __exit__(self, *_: object) -> None:
        if self._usual is not None:
            signal.signal(signal.SIGINT, self._usual)

    def _wish(self, *_: object) -> None:
        self.wanted = True
        signal.signal(signal.SIGINT, self._usual)
        self.say("stopping after this step, to keep a checkpoint; Ctrl-C again stops at once")
