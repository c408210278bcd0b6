"""Where tasks and messages wait inside an actor, between its calls and the thread that works.

What waits here, and what is on its way, dies with the actor. That a method is set up may not: a
document that ends its actor would count as a set-up that does. So the work waits until it is heard.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, Full, Queue
from typing import Any

from tta_bench.evaluation.workers.messages import Began, Ended

_SIZE = 64
"""Messages that wait to be fetched at most; behind them the work waits."""

_LOOK = 0.5
"""Seconds between two looks at whether a full box was closed."""


class Mailbox:
    """A worker's `Channel`, whose other end is fetched from.

    Attributes:
        fetched: when somebody last asked for messages, by `time.monotonic`; None before.
    """

    def __init__(self) -> None:
        self._tasks: Queue[Any] = Queue()
        self._messages: Queue[object] = Queue(_SIZE)
        self._closed = False
        self._told, self._heard = False, threading.Event()  # that a method is set up
        self.fetched: float | None = None

    def send(self, message: object) -> None:
        if not isinstance(message, Began):
            self._put(message)
            return
        self._heard.clear()
        self._put(message)
        self._heard.wait()
        if self._closed:
            raise BrokenPipeError

    def _put(self, message: object) -> None:
        while not self._closed:
            try:
                return self._messages.put(message, timeout=_LOOK)
            except Full:
                continue
        raise BrokenPipeError

    def recv(self) -> Any:
        task = self._tasks.get()
        if task is None:
            raise EOFError
        return task

    def put(self, task: object) -> None:
        """Hands a task in."""
        self._tasks.put(task)

    def fetch(self, seconds: float) -> list[object]:
        """What was sent, waited for so long: up to one document, so that an answer stays small."""
        self.fetched = time.monotonic()
        if self._told:  # who asks again has the answer before
            self._heard.set()
        found: list[object] = []
        try:
            found.append(self._messages.get(timeout=seconds))
            while not isinstance(found[-1], Ended):
                found.append(self._messages.get_nowait())
        except Empty:
            pass
        self._told = any(isinstance(message, Began) for message in found)
        return found

    def close(self) -> None:
        """Nothing is sent or received any more."""
        self._closed = True
        self._heard.set()
        self._tasks.put(None)
