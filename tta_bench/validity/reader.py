"""Reads documents through the engine itself, and keeps the whole distributions of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import DocumentResult, Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.step import Step
from tta_bench.engine.streams import Part, Stream
from tta_bench.model.scores import Scored, Scores
from tta_bench.validity.models import PREFIX

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.window import Window

CHUNK = 8

PLAIN = Protocol(chunk=CHUNK)
RECOMPUTE = Protocol(chunk=CHUNK, context=5, context_mode="recompute")
CACHE = Protocol(chunk=CHUNK, context=12, context_mode="cache")


WIDE = Protocol(chunk=256)


class Diverged(Exception):
    """A document whose losses are not finite, with the reason."""


class ObservedStep(Step):
    """The engine's step, with an eye on what the method predicts.

    Probes override its parts to interfere.

    Attributes:
        observed: the scores of the latest step.
    """

    observed: ObservedScores

    def score(self, window: Window) -> Scores:
        self.observed = ObservedScores(self.scores(window))
        return self.observed

    def scores(self, window: Window) -> Scores:
        """What the method predicts, unobserved."""
        return super().score(window)


class ObservedScores(Scores):
    """Scores that keep, as log-probabilities, every row that the engine asks for.

    They never claim to be normalised, so that the engine normalises them itself: a method whose
    probabilities do not sum to one fails the probe that says so and not all of them.
    """

    def __init__(self, scores: Scores):
        super().__init__(*scores.shape)
        self.scores = scores
        self._kept: list[Tensor] = []

    def rows(self, start: int, stop: int) -> Tensor:
        rows = self.scores.rows(start, stop)
        self._kept.append(log_probabilities(self.scores, rows.detach()).clone())
        return rows

    @property
    def log_probabilities(self) -> Tensor:
        """[B, C, V] float32: all that was asked for."""
        return torch.cat(self._kept, dim=1)


@dataclass(frozen=True)
class Reading:
    """A document as it was read.

    Attributes:
        rows: float32 log-probabilities [tokens, V].
        steps: the tokens of each step.
        states: copies of its lane's state after each step, by name.
    """

    rows: Tensor
    steps: list[int]
    states: list[dict[str, Tensor]]


class Reader(Engine):
    """The engine on documents of the probes, which returns distributions and not losses alone.

    A method that breaks its contract raises here, as it does in the engine.
    """

    step: ObservedStep

    def __init__(
        self,
        method: Method,
        protocol: Protocol = PLAIN,
        step: ObservedStep | None = None,
    ):
        observed = ObservedStep(method) if step is None else step
        super().__init__(method, protocol, PREFIX, debug=True, step=observed)
        self._rows: dict[int, list[Tensor]] = {}
        self._states: dict[int, list[dict[str, Tensor]]] | None = None

    def observe(self, documents: Sequence[TokenizedDocument]) -> list[Reading]:
        """The documents as they are read, with the state of their lanes after each step.

        Raises:
            Diverged: a loss is not finite.
        """
        self._states = {index: [] for index in range(len(documents))}
        rows = self.read(documents)
        states, self._states = self._states, None
        return [
            Reading(rows[index], [len(piece) for piece in self._rows[index]], states[index])
            for index in range(len(documents))
        ]

    def read(self, documents: Sequence[TokenizedDocument]) -> list[Tensor]:
        """Float32 log-probabilities [tokens, V] of each document.

        Raises:
            Diverged: a loss is not finite.
        """
        self._rows = {index: [] for index in range(len(documents))}
        for result in self.run(documents):
            if result.status != "done":
                raise Diverged(f"Reading {result.document.key}, {result.reason}.")
        return [torch.cat(pieces) for pieces in self._rows.values()]

    def record(
        self,
        lanes: list[Stream | None],
        parts: Sequence[Part],
        taken: Scored,
        on_step: Callable[[int, float], None],
    ) -> Iterator[DocumentResult]:
        rows = self.step.observed.log_probabilities
        for lane, part in enumerate(parts):
            if part is not None:
                stream, span = part
                self._rows[stream.index].append(rows[lane, : span.scored])
                if self._states is not None:
                    self._states[stream.index].append(_lane_state(self.method, lane))
        return super().record(lanes, parts, taken, on_step)


def _lane_state(method: Method, lane: int) -> dict[str, Tensor]:
    return {
        name: value[lane].detach().clone()
        for name, value in method.state.items()
        if isinstance(value, Tensor) and value.dim() and len(value) == method.lanes
    }


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


def where_first(one: Reading, other: Reading, limit: float) -> str:
    """Where two readings of one document first differ: a token and its chunk, or a state.

    Args:
        one: a reading.
        other: another, in steps of the same lengths.
        limit: differences up to this many nats are none.
    """
    begin = 0
    for number, length in enumerate(one.steps):
        for token in range(begin, begin + length):
            row = slice(token, token + 1)
            if largest_difference([one.rows[row]], [other.rows[row]]) > limit:
                return f"first at token {token}, in chunk {number}"
        for name, value in one.states[number].items():
            found = other.states[number].get(name)
            if found is None or not torch.allclose(value.double(), found.double(), 1e-4, 1e-5):
                return f"first in state['{name}'] after chunk {number}"
        begin += length
    return "nowhere in particular"
