"""The loop: documents become windows, each window a step, and each document a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tta_bench.cost.timing import StepTimer, synchronise
from tta_bench.engine.cuda_graph import StepGraph
from tta_bench.engine.outcome import outcome_of
from tta_bench.engine.protocol import Protocol, Span
from tta_bench.engine.step import Step
from tta_bench.engine.streams import (
    Part,
    Stream,
    collate,
    collate_targets,
    full_step,
    open_stream,
)
from tta_bench.model.cache import LaneCache
from tta_bench.model.compilation import compiled
from tta_bench.model.scores import row_losses

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.documents import TokenizedDocument
    from tta_bench.model.step_shape import StepShape

MIN_TOKENS = 2
"""Tokens that a document needs to be read at all."""


@dataclass(frozen=True)
class DocumentResult:
    """What became of one document.

    Attributes:
        index: its place among the documents that were given to `Engine.run`.
        document: the document.
        status: done, skipped, oom, diverged or error.
        reason: why it is not done; None if it is.
        nll: [tokens] float32, in nats, if it is done; otherwise None.
        seconds: its share of the time of the steps that read it.
    """

    index: int
    document: TokenizedDocument
    status: str
    reason: str | None = None
    nll: np.ndarray | None = None
    seconds: float = 0.0


class Engine:
    """Reads documents through one method under one protocol, on the method's lanes.

    Args:
        method: a fresh method.
        protocol: what is read and scored.
        prefix_id: the token that stands before each document, or None.
        debug: let an exception of the method through instead of ending the run with a row.
        compile: run the model, the loss and what the method offers through `torch.compile`, and
            the whole step as a CUDA graph where the method allows it. Every window is padded to
            the protocol's full width, so that all steps have one shape; the numbers are the same.
            Nothing is compiled before `warm_up`, so that FLOPs can be counted first.
        longest: the number of tokens of the longest document, beyond which no window is padded;
            None if it is not known.
        step: how a step is taken; None: as `Step` takes it.

    Attributes:
        timer: the times of the steps.
        reset_seconds: the time that resetting lanes took, outside of any step.
        cuda_graph: the captured step, if there is one.
    """

    def __init__(
        self,
        method: Method,
        protocol: Protocol,
        prefix_id: int | None,
        debug: bool = False,
        *,
        compile: bool = False,
        longest: int | None = None,
        step: Step | None = None,
    ):
        self.method = method
        self.protocol = protocol
        self.prefix_id = prefix_id
        self.debug = debug
        self.compile = compile
        self.step = Step(method) if step is None else step
        self.cuda_graph: StepGraph | None = None
        self.device = method.model.device
        self.timer = StepTimer(self.device)
        self.reset_seconds = 0.0
        self.past: LaneCache | None = None
        if protocol.context_mode == "cache":
            self.past = LaneCache(method.lanes, protocol.context, self.device)
        # Padding that is read into a carried cache must be forgotten before the lane reads on.
        carried = self.past is not None and protocol.reset == "never"
        self._least = full_step(protocol, longest) if compile and not carried else None

    def warm_up(self, shape: StepShape) -> None:
        """Takes a step of this shape on random tokens, so that no document pays for set-up."""
        if self.compile:
            # A carried cache grows, and its blocks would be compiled anew for each width.
            self.method.model.compiled = self.past is None
            self.method.compile()
            self.step.losses_of = compiled(row_losses)
        parts = _random_parts(shape, self.method.lanes, self.method.model.vocab_size)
        self._take_step(parts)
        captures = self.method.graphs and self.past is None and self.device.type == "cuda"
        if self.compile and captures:
            window = collate(parts, self.device, self.past, self._least)
            targets = collate_targets(parts, self.device, window.chunk_size)
            self.cuda_graph = StepGraph(self.step, window, targets)
        for lane in range(self.method.lanes):
            self.reset(lane)
        self.timer.forget()
        self.reset_seconds = 0.0

    def run(
        self,
        documents: Iterable[TokenizedDocument],
        on_step: Callable[[int, float], None] = lambda tokens, nll: None,
    ) -> Iterator[DocumentResult]:
        """Reads every document once and yields its result when it ends.

        A lane whose document ends takes the next one. When memory runs out or the method raises,
        the documents in flight are yielded with that status and the run ends.

        Args:
            documents: read lazily, in order.
            on_step: called after each step, once for each lane that read in it, with the number of
                tokens scored and their summed loss in nats.
        """
        waiting = iter(enumerate(documents))
        lanes: list[Stream | None] = [None] * self.method.lanes
        started = False
        while True:
            for lane, stream in enumerate(lanes):
                if stream is None:
                    lanes[lane] = yield from self._next_stream(waiting)
                    if lanes[lane] is not None and not (started and self.protocol.reset == "never"):
                        self.reset(lane)
            if all(stream is None for stream in lanes):
                return
            started = True
            parts = [None if stream is None else (stream, next(stream.spans)) for stream in lanes]
            try:
                losses = self._take_step(parts)
            except Exception as error:  # a method is foreign code: whatever it raises is its row
                if self.debug:
                    raise
                yield from _unfinished(lanes, error)
                return
            yield from self.record(lanes, parts, losses, on_step)

    def _next_stream(
        self, waiting: Iterator[tuple[int, TokenizedDocument]]
    ) -> Generator[DocumentResult, None, Stream | None]:
        """Returns the next document that can be read; yields a row for each that cannot."""
        for index, document in waiting:
            length = len(document.token_ids)
            stream = open_stream(index, document, self.protocol, self.prefix_id)
            if length < MIN_TOKENS:
                reason = f"{length} tokens; at least {MIN_TOKENS} are needed"
            elif len(stream.nll) == 0:
                reason = f"{length} tokens do not fill one window"
            else:
                return stream
            yield DocumentResult(index, document, "skipped", reason)
        return None

    def _take_step(self, parts: Sequence[Part]) -> Tensor:
        """The losses [B, C] of one step, float32, on the CPU."""
        window = collate(parts, self.device, self.past, self._least)
        read_targets = partial(collate_targets, parts, self.device, window.chunk_size)
        take = self.step if self.cuda_graph is None else self.cuda_graph
        with self.timer.step(sum(part[1].scored for part in parts if part is not None)):
            losses = take(window, read_targets)
        return losses.cpu()

    def record(
        self,
        lanes: list[Stream | None],
        parts: Sequence[Part],
        losses: Tensor,
        on_step: Callable[[int, float], None],
    ) -> Iterator[DocumentResult]:
        """Hands the losses [B, C] of a step to the documents that it read; yields what ended."""
        seconds = self.timer.last / sum(part is not None for part in parts)
        values = losses.numpy()  # 0 at padding
        finite, sums = np.isfinite(values).all(1), values.sum(1, dtype=np.float64)
        for lane, part in enumerate(parts):
            if part is None:
                continue
            stream, scored = part[0], part[1].scored
            own = values[lane, :scored]
            stream.record(own)
            stream.seconds += seconds
            if not finite[lane]:
                lanes[lane] = None
                reason = _divergence(own, stream.tokens_scored - scored)
                yield _result(stream, "diverged", reason)
                continue
            on_step(scored, float(sums[lane]))
            if stream.finished:
                lanes[lane] = None
                yield _result(stream, "done", nll=stream.nll)

    def reset(self, lane: int) -> None:
        """Makes the lane forget what it has read."""
        synchronise(self.device)
        started = time.perf_counter()
        self.method.reset(lane)
        if self.past is not None:
            self.past.reset(lane)
        synchronise(self.device)
        self.reset_seconds += time.perf_counter() - started


def _result(
    stream: Stream, status: str, reason: str | None = None, nll: np.ndarray | None = None
) -> DocumentResult:
    return DocumentResult(stream.index, stream.document, status, reason, nll, stream.seconds)


def _divergence(losses: np.ndarray, first: int) -> str:
    """Why losses [n] of tokens `first`, `first` + 1, ... show that a document has diverged."""
    place = int(np.argmin(np.isfinite(losses)))
    why = "it was given probability zero"
    if np.isnan(losses[place]):
        why = "its distribution holds a value that is no number or is infinite"
    return f"the loss of token {first + place} is {losses[place]}: {why}"


def _unfinished(lanes: list[Stream | None], error: Exception) -> Iterator[DocumentResult]:
    status, reason = outcome_of(error)
    for stream in lanes:
        if stream is not None:
            yield _result(stream, status, reason)


def _random_parts(shape: StepShape, lanes: int, vocab_size: int) -> list[Part]:
    """What each lane reads in a step of this shape: random tokens, the same at every call."""
    from tta_bench.documents import TokenizedDocument

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (lanes, shape.inputs + 1), generator=generator).numpy()
    span = Span(0, shape.inputs, shape.scored)
    parts: list[Part] = []
    for sequence in tokens:
        document = TokenizedDocument("random", sequence.astype(np.int32), 0, 0, "")
        parts.append((Stream(0, document, sequence, iter(()), 0), span))
    return parts
