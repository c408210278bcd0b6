"""The loop: documents become windows, each window a step, and each document a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

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
from tta_bench.format import plural
from tta_bench.model.cache import LaneCache
from tta_bench.model.compilation import compiled
from tta_bench.model.scores import Scored, refuse_unnormalised, row_scored

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.documents import TokenizedDocument
    from tta_bench.engine.probe import Probe
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window

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
        top1: [tokens] bool, whether each token was the most probable one; likewise.
        seconds: its share of the time of the steps that read it.
        figures: what the method says of it by name, if it is done.
        probe_nll: the sum of the losses of the probe as the method predicts it after the document,
            nats; None without a probe, and unless it is done.
    """

    index: int
    document: TokenizedDocument
    status: str
    reason: str | None = None
    nll: np.ndarray | None = None
    top1: np.ndarray | None = None
    seconds: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    probe_nll: float | None = None


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
            A model that reads its lanes alone is never compiled, since its windows differ in width,
            nor one that is spread over devices or holds its weights in few bits.
            Nothing is compiled before `warm_up`, so that FLOPs can be counted first.
        longest: the number of tokens of the longest document, beyond which no window is padded;
            None if it is not known.
        step: how a step is taken; None: as `Step` takes it.
        probe: a text that the method on its single lane reads before the first document and after
            each, without learning from it; None: there is none.

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
        probe: Probe | None = None,
    ):
        self.method = method
        self.protocol = protocol
        self.prefix_id = prefix_id
        self.debug = debug
        self.compile = compile and not (method.model.reads_alone or method.model.fixed)
        self.step = Step(method) if step is None else step
        self.probe = probe
        self.cuda_graph: StepGraph | None = None
        self.device = method.model.device
        self.timer = StepTimer(self.device)
        self.reset_seconds = 0.0
        self.past: LaneCache | None = None
        if protocol.context_mode == "cache":
            method.model.require_carry()
            self.past = LaneCache(method.lanes, protocol.context, self.device)
        # Padding that is read into a carried cache must be forgotten before the lane reads on.
        carried = self.past is not None and protocol.reset == "never"
        self._least = full_step(protocol, longest) if self.compile and not carried else None

    def warm_up(self, shape: StepShape) -> None:
        """Takes a step of this shape on random tokens, so that no document pays for set-up."""
        if self.compile:
            # A carried cache grows, and its blocks would be compiled anew for each width.
            self.method.model.compiled = self.past is None
            self.method.compile()
            self.step.scored_of = compiled(row_scored)
        parts = _random_parts(shape, self.method.lanes, self.method.model.readable_ids)
        self._take_step(parts)
        captures = self.method.graphs and self.past is None and self.device.type == "cuda"
        if self.compile and captures:
            window = self._window(parts)
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
            parts = [None if stream is None else (stream, next(stream.spans)) for stream in lanes]
            try:
                if self.probe is not None and not started:
                    self.probe.fresh = self._read(self.probe)
                started = True
                taken = self._take_step(parts)
            except Exception as error:  # a method is foreign code: whatever it raises is its row
                if self.debug:
                    raise
                yield from _unfinished(lanes, error)
                return
            yield from self.record(lanes, parts, taken, on_step)

    def _next_stream(
        self, waiting: Iterator[tuple[int, TokenizedDocument]]
    ) -> Generator[DocumentResult, None, Stream | None]:
        """Returns the next document that can be read; yields a row for each that cannot."""
        for index, document in waiting:
            length = len(document.token_ids)
            stream = open_stream(index, document, self.protocol, self.prefix_id)
            if length < MIN_TOKENS:
                reason = f"{plural(length, 'token')}; at least {MIN_TOKENS} are needed"
            elif len(stream.nll) == 0:
                reason = f"{plural(length, 'token')} do not fill one window"
            else:
                return stream
            yield DocumentResult(index, document, "skipped", reason)
        return None

    def _take_step(self, parts: Sequence[Part]) -> Scored:
        """What one step gives, on the CPU."""
        window = self._window(parts)
        read_targets = partial(collate_targets, parts, self.device, window.chunk_size)
        take = self.step if self.cuda_graph is None else self.cuda_graph
        with self.timer.step(sum(part[1].scored for part in parts if part is not None)):
            taken = take(window, read_targets)
        scored = Scored(taken.nll.cpu(), taken.top1.cpu())
        refuse_unnormalised(scored.nll)  # a captured step leaves that to whoever replays it
        return scored

    def _window(self, parts: Sequence[Part]) -> Window:
        return collate(parts, self.device, self.past, self._least)

    def record(
        self,
        lanes: list[Stream | None],
        parts: Sequence[Part],
        taken: Scored,
        on_step: Callable[[int, float], None],
    ) -> Iterator[DocumentResult]:
        """Hands what a step gave to the documents that it read; yields what ended."""
        seconds = self.timer.last / sum(part is not None for part in parts)
        values, top1 = taken.nll.numpy(), taken.top1.numpy()  # 0 at padding
        finite, sums = np.isfinite(values).all(1), values.sum(1, dtype=np.float64)
        for lane, part in enumerate(parts):
            if part is None:
                continue
            stream, scored = part[0], part[1].scored
            own = values[lane, :scored]
            stream.record(own, top1[lane, :scored])
            stream.seconds += seconds
            if not finite[lane]:
                lanes[lane] = None
                reason = _divergence(own, stream.tokens_scored - scored)
                yield _result(stream, "diverged", reason)
                continue
            on_step(scored, float(sums[lane]))
            if stream.finished:
                lanes[lane] = None
                yield self._done(stream, lane)

    def _done(self, stream: Stream, lane: int) -> DocumentResult:
        """The result of a document that was read to its end, with the method's figures of it."""
        try:
            said = self.method.figures(lane).items()
            figures = {str(name): float(value) for name, value in said}
            probed = None if self.probe is None else self._read(self.probe)
        except Exception as error:
            if self.debug:
                raise
            return _result(stream, *outcome_of(error))
        done = _result(stream, "done")
        done = replace(done, nll=stream.nll, top1=stream.top1)
        return replace(done, figures=figures, probe_nll=probed)

    def _read(self, probe: Probe) -> float:
        """The sum of the losses of a probe in nats, as the method predicts it now."""
        return probe.read(self.step, self.past, self._window)

    def reset(self, lane: int) -> None:
        """Makes the lane forget what it has read."""
        synchronise(self.device)
        started = time.perf_counter()
        self.method.reset(lane)
        if self.past is not None:
            self.past.reset(lane)
        synchronise(self.device)
        self.reset_seconds += time.perf_counter() - started


def _result(stream: Stream, status: str, reason: str | None = None) -> DocumentResult:
    """The result of a document without what was found of its tokens."""
    return DocumentResult(stream.index, stream.document, status, reason, seconds=stream.seconds)


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


def _random_parts(shape: StepShape, lanes: int, readable_ids: int) -> list[Part]:
    """What each lane reads in a step of this shape: random tokens, the same at every call."""
    from tta_bench.documents import TokenizedDocument

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(readable_ids, (lanes, shape.inputs + 1), generator=generator).numpy()
    span = Span(0, shape.inputs, shape.scored)
    parts: list[Part] = []
    for sequence in tokens:
        document = TokenizedDocument("random", sequence.astype(np.int32), 0, 0, "")
        parts.append((Stream(0, document, sequence, iter(()), 0), span))
    return parts
