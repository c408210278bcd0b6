"""The driver's side of one actor: one question to it is always open, and its answers are heard."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from tta_bench.evaluation.part import Broken
from tta_bench.evaluation.workers.crew import Member

if TYPE_CHECKING:
    from tta_bench.evaluation.workers.messages import Task

_HEARTBEAT = 2.0
"""Seconds after which an actor that has nothing to say answers that it is there."""

_WHY = re.compile(r"exit detail: ([^.\n]+)"), re.compile(r"because ([^.\n]+)")


class ActorMember(Member):
    """One actor.

    Args:
        number: its place in the crew.
        actor: Ray's handle of it, which may not have started yet.

    Attributes:
        answer: what `ray.wait` waits for.
    """

    def __init__(self, number: int, actor: Any):
        super().__init__(number)
        self._actor = actor
        self._error: RayError | None = None
        self._ask()

    def hear(self) -> Iterator[object]:
        """What its answer holds, which has come; None if it has ended."""
        try:
            messages = ray.get(self.answer)
        except RayError as error:
            self._error = error
            yield None
            return
        self._ask()
        yield from messages

    @property
    def silence(self) -> float:
        """Seconds since it last answered, or was hired."""
        return time.monotonic() - self._asked

    def ended(self) -> Broken:
        if self._error is None:
            return "error", f"its worker has not answered for {self.silence:.0f} s"
        return how_it_ended(self._error)

    def stop(self, seconds: float) -> Any:
        """Tells it to end its work; returns what `ray.wait` waits for."""
        return self._actor.stop.remote(seconds)

    def end(self) -> None:
        with suppress(RayError):
            ray.kill(self._actor)

    def _send(self, task: Task) -> None:
        self._actor.give.remote(task)

    def _ask(self) -> None:
        self.answer = self._actor.hear.remote(_HEARTBEAT)
        self._asked = time.monotonic()


def how_it_ended(error: RayError) -> Broken:
    """The status and the reason that Ray's error tells: `oom` where its monitor ended the actor."""
    if isinstance(error, OutOfMemoryError):
        return "oom", "Ray ended its worker because the memory of its machine ran out"
    return "error", f"its worker ended ({_reason(str(error))})"


def _reason(text: str) -> str:
    """One clause of what Ray says in paragraphs, without the addresses in them."""
    if "No module named 'tta_bench" in text:
        return "its machine has no such tta-bench; install the same on every node"
    found = [match[1] for match in (pattern.search(text) for pattern in _WHY) if match]
    if not found or "creation task" in text:
        return text.strip().split("\n")[-1]
    return found[0]
