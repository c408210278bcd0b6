"""The loop: score, turn scores into losses, then let the method adapt. It knows no method."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tta_bench.cost.timing import StepTimer
from tta_bench.engine.cuda_graph import StepGraph
from tta_bench.engine.protocol import Protocol, Span
from tta_bench.engine.streams import Step, Stream, collate, full_step, open_stream
from tta_bench.errors import BenchError, MethodError
from tta_bench.model.cache import LaneCache
from tta_bench.model.compilation import compiled
from tta_bench.model.precision import float32_products
from tta_bench.model.scores import as_scores, row_losses, token_nll

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.documents import TokenizedDocument
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window

MIN_TOKENS = 2

_NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What a RuntimeError says where it means that memory ran out."""


@dataclass(frozen=True)
class DocumentResult:
    """What became of one document.

    `status`: done, skipped, oom, diverged or error, with the reason. `nll` [tokens] float32, in
    nats, is there for `done` alone.
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
            the whole step as a CUDA graph where the method allows it. It takes effect in
            `warm_up`, so that FLOPs can be counted before. It asks for `fixed`.
        fixed: pad every window to the protocol's full width, so that all steps have one shape, as
            compiled code wants it; the numbers are the same.
        longest: tokens of the longest document, beyond which `fixed` does not pad; None if it is
            not known.
    """

    def __init__(
        self,
        method: Method,
        protocol: Protocol,
        prefix_id: int | None,
        debug: bool = False,
        *,
        compile: bool = False,
        fixed: bool = False,
        longest: int | None = None,
    ):
        self.method = method
        self.protocol = protocol
        self.prefix_id = prefix_id
        self.debug = debug
        self.compile = compile
        self.losses_of = row_losses
        self.graph: StepGraph | None = None
        self.device = method.model.device
        self.timer = StepTimer(self.device)
        self.past: LaneCache | None = None
        if protocol.context_mode == "cache":
            self.past = LaneCache(method.lanes, protocol.context, self.device)
        # Padding that is read into a carried cache must be forgotten before the lane reads on.
        carried = self.past is not None and protocol.reset == "never"
        self._least = full_step(protocol, longest) if (fixed or compile) and not carried else None

    def warm_up(self, shape: StepShape) -> None:
        """One step of this shape on synthetic tokens, so that no document pays for set-up."""
        if self.compile:
            # A carried cache grows, and its blocks would be compiled anew for each width.
            self.method.model.compiled = self.past is None
            self.method.compile()
            self.losses_of = compiled(row_losses)
        generator = torch.Generator().manual_seed(0)
        wanted = (self.method.lanes, shape.inputs + 1)
        tokens = torch.randint(self.method.model.vocab_size, wanted, generator=generator)
        span = Span(0, shape.inputs, shape.scored)
        parts: list[tuple[Stream, Span] | None] = [
            (_synthetic(row.numpy()), span) for row in tokens
        ]
        step = self._collate(parts)
        self._score_and_adapt(step)
        if self.compile and self.method.graphs and self.past is None and self.device.type == "cuda":
            self.graph = StepGraph(self._work, step)
        self.timer.forget()
        for lane in range(self.method.lanes):
            self._reset(lane)

    def run(
        self,
        documents: Iterable[TokenizedDocument],
        on_step: Callable[[int, float], None] = lambda tokens, nll: None,
    ) -> Iterator[DocumentResult]:
        """Streams every document once and yields each as it ends.

        A lane whose document ends takes the next one. When memory runs out or the method raises,
        the documents in flight are yielded with that status and the run ends.

        Args:
            documents: read lazily, in order.
            on_step: called after each step with the tokens scored and their summed NLL.
        """
        waiting = iter(enumerate(documents))
        lanes: list[Stream | None] = [None] * self.method.lanes
        started = False
        while True:
            for lane, stream in enumerate(lanes):
                if stream is None:
                    lanes[lane] = yield from self._next_stream(waiting)
                    if lanes[lane] is not None and not (started and self.protocol.reset == "never"):
                        self._reset(lane)
            if all(stream is None for stream in lanes):
                return
            started = True
            parts = [None if stream is None else (stream, next(stream.spans)) for stream in lanes]
            try:
                nll = self._score_and_adapt(self._collate(parts))
            except Exception as error:  # a method is foreign code: whatever it raises is its row
                if self.debug:
                    raise
                yield from _failures(lanes, error)
                return
            yield from self._record(lanes, parts, nll, on_step)

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

    def _collate(self, parts: list[tuple[Stream, Span] | None]) -> Step:
        return collate(parts, self.device, self.past, self._least)

    def _score_and_adapt(self, step: Step) -> Tensor:
        """[B, C] float32 losses of one step, on the CPU."""
        with self.timer.step(step.tokens):
            losses = (
                self._work(step.window, step.targets) if self.graph is None else self.graph(step)
            )
            if self.past is not None:
                self.past.commit(step.window.lengths)
        return losses.cpu()

    def _work(self, window: Window, targets: Tensor) -> Tensor:
        """Scores, then lets the method adapt: [B, C] losses."""
        method = self.method
        with torch.set_grad_enabled(method.gradients), float32_products(method.model.dtype):
            shape = (window.lanes, window.chunk_size, method.model.vocab_size)
            scores = as_scores(method.score(window), shape)
            nll = token_nll(scores, targets, window.mask, method.gradients, self.losses_of)
            if method.gradients and not nll.requires_grad:
                raise MethodError("the method asks for gradients but its scores depend on none.")
            losses = nll.detach().clone()
            method.adapt(window, targets, nll)
        return losses

    def _record(
        self,
        lanes: list[Stream | None],
        parts: list[tuple[Stream, Span] | None],
        nll: Tensor,
        on_step: Callable[[int, float], None],
    ) -> Iterator[DocumentResult]:
        seconds = self.timer.last / sum(part is not None for part in parts)
        values = nll.numpy()  # 0 at padding
        finite, sums = np.isfinite(values).all(1), values.sum(1, dtype=np.float64)
        for lane, part in enumerate(parts):
            if part is None:
                continue
            stream, scored = part[0], part[1].scored
            losses = values[lane, :scored]
            stream.record(losses)
            stream.seconds += seconds
            if not finite[lane]:
                first = int(np.argmin(np.isfinite(losses)))
                position = stream.tokens_scored - scored + first
                reason = f"the loss of token {position} is {losses[first]}"
                lanes[lane] = None
                yield DocumentResult(
                    stream.index, stream.document, "diverged", reason, seconds=stream.seconds
                )
                continue
            on_step(scored, float(sums[lane]))
            if stream.finished:
                lanes[lane] = None
                yield DocumentResult(
                    stream.index, stream.document, "done", nll=stream.nll, seconds=stream.seconds
                )

    def _reset(self, lane: int) -> None:
        self.method.reset(lane)
        if self.past is not None:
            self.past.reset(lane)


def failure(error: BaseException) -> tuple[str, str]:
    """Status and reason of a method that raised."""
    out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )
    reason = str(error).split("\n")[0]
    if not isinstance(error, BenchError):
        reason = f"{type(error).__name__}: {reason}"
    return "oom" if out_of_memory else "error", reason


def _failures(lanes: list[Stream | None], error: Exception) -> Iterator[DocumentResult]:
    status, reason = failure(error)
    for stream in lanes:
        if stream is not None:
            yield DocumentResult(
                stream.index, stream.document, status, reason, seconds=stream.seconds
            )


def _synthetic(tokens: np.ndarray) -> Stream:
    from tta_bench.documents import TokenizedDocument

    document = TokenizedDocument("synthetic", tokens.astype(np.int32), 0, 0, "")
    return Stream(0, document, tokens, iter(()), 0)
