"""A fixed text that the state of a method reads now and then, and that leaves no trace in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from tta_bench.cost.timing import synchronise
from tta_bench.engine.memento import Memento
from tta_bench.engine.streams import Part, collate_targets, open_stream
from tta_bench.model.scores import refuse_unnormalised

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.documents import TokenizedDocument
    from tta_bench.engine.protocol import Protocol
    from tta_bench.engine.step import Step
    from tta_bench.model.cache import LaneCache
    from tta_bench.model.window import Window


class Probe:
    """What is to be read, and what reading it has cost so far.

    Each window is scored by the very same state: the method never adapts to the probe, and what
    scoring alone has changed is put back before the next window.

    Args:
        document: the text.
        protocol: how it is divided into windows.
        prefix_id: the token that stands before it, or None.

    Attributes:
        fresh: sum of its losses in nats as a method that has read nothing reads it; None until
            it was read so.
        tokens: tokens scored in a reading.
        readings: how often it was read.
        seconds: the time that all readings took.
    """

    def __init__(self, document: TokenizedDocument, protocol: Protocol, prefix_id: int | None):
        self.document = document
        self.fresh: float | None = None
        self.readings = 0
        self.seconds = 0.0
        self._open = partial(open_stream, 0, document, protocol, prefix_id)
        self.tokens = len(self._open().nll)

    def read(
        self,
        step: Step,
        past: LaneCache | None,
        window_of: Callable[[list[Part]], Window],
    ) -> float:
        """The sum of the losses in nats, as the method on its single lane predicts the text now.

        Args:
            step: how its windows are scored.
            past: keys and values that the engine carries for the method, or None.
            window_of: makes a window of what the lane reads.
        """
        method: Method = step.method
        device = method.model.device
        synchronise(device)
        started = time.perf_counter()
        memento = Memento(method, past)
        total, stream = 0.0, self._open()
        try:
            for span in stream.spans:
                parts: list[Part] = [(stream, span)]
                losses = self._peek(step, parts, window_of(parts))
                memento.restore()
                total += float(losses.double().sum())
        finally:
            memento.restore()
            synchronise(device)
            self.seconds += time.perf_counter() - started
        self.readings += 1
        return total

    def _peek(self, step: Step, parts: list[Part], window: Window) -> Tensor:
        device = step.method.model.device
        losses = step.peek(window, partial(collate_targets, parts, device, window.chunk_size)).cpu()
        refuse_unnormalised(losses)
        return losses
