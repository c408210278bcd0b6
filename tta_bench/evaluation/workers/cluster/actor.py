"""The actor: a worker on a node of the cluster, in a process that Ray starts."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

import ray

from tta_bench.errors import UsageError
from tta_bench.evaluation.workers.cluster.handshake import require_same
from tta_bench.evaluation.workers.cluster.mailbox import Mailbox
from tta_bench.evaluation.workers.messages import Failed
from tta_bench.evaluation.workers.worker import serve

_UNHEARD = 3600.0
"""Seconds after which an actor that nobody has asked anything takes its driver for gone. While the
driver tokenises or hashes it does not ask."""

_LOOK = 5.0
"""Seconds between two looks at how long nobody has asked."""


@dataclass(frozen=True)
class Place:
    """Where and how an actor works, as the command says it.

    Attributes:
        device: as `--device` takes it.
        threads: of PyTorch.
        folder: the one that the command was called in, which relative paths start from.
        terms: what its machine must have in common with the command's.
    """

    device: str
    threads: int
    folder: str
    terms: dict[str, str]


class Actor:
    """Does tasks in a thread of its own, so that it answers while it works.

    Ray ends it with the command that made it. Where Ray cannot, it ends itself: nothing may keep a
    GPU that nobody waits for.

    Args:
        place: where and how it works.
    """

    def __init__(self, place: Place):
        # Versions of Ray differ in what they let an actor see: it sees what it was given.
        cards = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
        self._mailbox = Mailbox()
        self._thread = threading.Thread(target=self._work, args=(place,), daemon=True)
        self._thread.start()
        threading.Thread(target=self._end_unheard, daemon=True).start()

    def give(self, task: object) -> None:
        """Takes a task."""
        self._mailbox.put(task)

    def hear(self, seconds: float) -> list[object]:
        """What the worker has said, waited for so long; an empty answer says that it is there."""
        return self._mailbox.fetch(seconds)

    def stop(self, seconds: float) -> None:
        """Ends the work where it next has something to say, waited for so long."""
        self._mailbox.close()
        self._thread.join(seconds)

    def _work(self, place: Place) -> None:
        try:
            _enter(place)
        except UsageError as error:
            self._mailbox.send(Failed(type(error).__name__, str(error)))
        else:
            serve(self._mailbox, place.device, place.threads)

    def _end_unheard(self) -> None:
        while True:
            time.sleep(_LOOK)
            fetched = self._mailbox.fetched
            if fetched is not None and time.monotonic() - fetched > _UNHEARD:
                os._exit(1)


def _enter(place: Place) -> None:
    """Takes the worker where the command is; raises UsageError where that cannot be."""
    try:
        os.chdir(place.folder)
    except OSError as error:
        raise UsageError(
            f"its machine has no folder {place.folder}; models, texts and results must lie at the "
            "same paths on every node."
        ) from error
    require_same(place.terms)
