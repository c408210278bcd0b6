"""Reads documents through a method as the engine does, and keeps whole distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tta_bench.documents import TokenizedDocument
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.streams import Step, Stream, collate, open_stream
from tta_bench.model.cache import LaneCache
from tta_bench.model.scores import Scores, as_scores
from tta_bench.validity.models import PREFIX

if TYPE_CHECKING:
    from tta_bench.contract.method import Method

CHUNK = 8

PLAIN = Protocol(chunk=CHUNK)
RECOMPUTE = Protocol(chunk=CHUNK, context=5, context_mode="recompute")
CACHE = Protocol(chunk=CHUNK, context=12, context_mode="cache")


class Reader:
    """The engine's loop, step for step, that returns all log-probabilities, not the losses alone.

    Probes override `score`, `step` and `learn` to interfere. A method that breaks a contract
    raises here as in the engine, except for what `normalised` measures.
    """

    def __init__(self, method: Method, protocol: Protocol = PLAIN):
        self.method = method
        self.protocol = protocol
        self.past: LaneCache | None = None
        if protocol.context_mode == "cache":
            self.past = LaneCache(method.lanes, protocol.context, method.model.device)

    def read(self, documents: Sequence[TokenizedDocument]) -> list[Tensor]:
        """Float32 log-probabilities [tokens, V] of each document."""
        waiting = list(enumerate(documents))
        rows: list[list[Tensor]] = [[] for _ in documents]
        lanes: list[Stream | None] = [None] * self.method.lanes
        while True:
            for lane, stream in enumerate(lanes):
                if stream is None and waiting:
                    index, document = waiting.pop(0)
                    lanes[lane] = open_stream(index, document, self.protocol, PREFIX)
                    self.reset(lane)
            if all(stream is None for stream in lanes):
                return [torch.cat(parts) for parts in rows]
            parts = [None if stream is None else (stream, next(stream.spans)) for stream in lanes]
            found = self.step(collate(parts, self.method.model.device, self.past))
            for lane, part in enumerate(parts):
                if part is not None:
                    stream, span = part
                    rows[stream.index].append(found[lane, : span.scored])
                    stream.record(np.zeros(span.scored, dtype=np.float32))
                    if stream.finished:
                        lanes[lane] = None

    def reset(self, lane: int) -> None:
        """Forgets what the lane has read."""
        self.method.reset(lane)
        if self.past is not None:
            self.past.reset(lane)

    def step(self, step: Step) -> Tensor:
        """[B, C, V] log-probabilities of one step, after which the method has adapted."""
        with torch.set_grad_enabled(self.method.gradients):
            rows = self.score(step)
            targets = step.targets
            nll = -rows.gather(2, targets[..., None])[..., 0].masked_fill(~step.window.mask, 0.0)
            kept = rows.detach().clone()
            self.learn(step, nll)
            if self.past is not None:
                self.past.commit(step.window.lengths)
        return kept

    def score(self, step: Step) -> Tensor:
        """[B, C, V] log-probabilities, differentiable if the method asks for gradients."""
        scores = self.scores(step)
        return log_probabilities(scores, scores.full())

    def scores(self, step: Step) -> Scores:
        """What the method's `score` returned."""
        window = step.window
        shape = (window.lanes, window.chunk_size, self.method.model.vocab_size)
        return as_scores(self.method.score(window), shape)

    def learn(self, step: Step, nll: Tensor) -> None:
        """Lets the method adapt."""
        self.method.adapt(step.window, step.targets, nll)


def log_probabilities(scores: Scores, rows: Tensor) -> Tensor:
    """What the engine makes of `rows` of these scores: float32 log-probabilities."""
    return rows.float() if scores.normalised else rows.float().log_softmax(-1)


def largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Largest |difference| of log-probabilities, in nats; two minus infinities are equal.

    NaN, and a minus infinity against a number, are infinitely far from everything.
    """
    largest = 0.0
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape:
            return float("inf")
        distance = torch.where(a == b, 0.0, (a - b).abs())
        if distance.numel():
            largest = max(largest, float(distance.nan_to_num(nan=float("inf")).max()))
    return largest
