"""Documents that are read side by side, one in each lane, and collated into a window a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tta_bench.engine.protocol import Protocol, Span
from tta_bench.model.step_shape import StepShape
from tta_bench.model.window import Window

if TYPE_CHECKING:
    from tta_bench.documents import TokenizedDocument
    from tta_bench.model.cache import LaneCache


class Stream:
    """One document being read left to right, once.

    Attributes:
        index: its place in the dataset.
        document: what is read.
        sequence: [n] int64, the prefix token (if any) and the document's tokens.
        spans: the windows still to come.
        nll: [tokens planned] float32, nats. Allocated as a whole at the start: small vectors kept
            from each step would lie between large buffers and keep the heap from reusing them.
        top1: [tokens planned] bool, whether each token was the most probable one.
        tokens_scored: the number of entries of both that are filled.
        seconds: this document's share of the time of the steps so far.
    """

    def __init__(
        self,
        index: int,
        document: TokenizedDocument,
        sequence: np.ndarray,
        spans: Iterator[Span],
        tokens_planned: int,
    ):
        self.index = index
        self.document = document
        self.sequence = sequence
        self.spans = spans
        self.nll = np.full(tokens_planned, np.nan, dtype=np.float32)
        self.top1 = np.zeros(tokens_planned, dtype=np.bool_)
        self.tokens_scored = 0
        self.seconds = 0.0

    def record(self, losses: np.ndarray, top1: np.ndarray) -> None:
        """Appends what is known of the next tokens."""
        stop = self.tokens_scored + len(losses)
        self.nll[self.tokens_scored : stop] = losses
        self.top1[self.tokens_scored : stop] = top1
        self.tokens_scored = stop

    @property
    def finished(self) -> bool:
        """True once every planned token has been scored."""
        return self.tokens_scored == len(self.nll)


def open_stream(
    index: int, document: TokenizedDocument, protocol: Protocol, prefix_id: int | None
) -> Stream:
    """Starts reading a document; `prefix_id` stands before it where the protocol uses one."""
    sequence = document.token_ids.astype(np.int64)
    if protocol.uses_prefix and prefix_id is not None:
        sequence = np.concatenate([[prefix_id], sequence])
    planned = sum(span.scored for span in protocol.plan(len(sequence)))
    return Stream(index, document, sequence, protocol.plan(len(sequence)), planned)


def full_step(protocol: Protocol, longest: int | None = None) -> StepShape:
    """The widest step of a protocol, in steady state.

    Args:
        protocol: how documents are divided into windows.
        longest: the number of tokens of the longest document; None if it is not known.
    """
    inputs, scored = protocol.inputs_per_window, protocol.scored_per_window
    past = protocol.context if protocol.context_mode == "cache" else 0
    if longest is None:
        return StepShape(inputs, scored, past)
    return StepShape(
        inputs=min(inputs, longest),
        scored=min(scored, longest),
        past=min(past, max(longest - protocol.chunk, 0)),
    )


def step_shape(span: Span, protocol: Protocol) -> StepShape:
    """The size of the step that reads a window."""
    carried = protocol.context if protocol.context_mode == "cache" else 0
    return StepShape(
        inputs=span.stop - span.start,
        scored=span.scored,
        past=min(carried, span.start),
        start=span.stop - span.scored,
    )


Part = tuple[Stream, Span] | None
"""What one lane reads in a step; None for an idle lane."""


def collate(
    parts: Sequence[Part],
    device: torch.device,
    past: LaneCache | None,
    least: StepShape | None = None,
) -> Window:
    """Right-pads what the lanes read into one window.

    Args:
        parts: what each lane reads.
        device: where it is read.
        past: carried keys and values, or None.
        least: the least number of inputs and of predictions that the window has room for, whether
            or not a lane needs them; None: the window is as wide as its widest lane.
    """
    lengths = [0 if part is None else part[1].stop - part[1].start for part in parts]
    scored = [0 if part is None else part[1].scored for part in parts]
    width, columns = max(lengths), max(scored)
    if least is not None:
        width, columns = max(width, least.inputs), max(columns, least.scored)
    inputs = np.zeros((len(parts), width), dtype=np.int64)
    for lane, part in enumerate(parts):
        if part is not None:
            stream, span = part
            inputs[lane, : lengths[lane]] = stream.sequence[span.start : span.stop]
    return Window(
        input_ids=_moved(torch.from_numpy(inputs), device),
        lengths=_moved(torch.tensor(lengths), device),
        scored=_moved(torch.tensor(scored), device),
        chunk_size=columns,
        past=past,
    )


def collate_targets(parts: Sequence[Part], device: torch.device, columns: int) -> Tensor:
    """The targets [B, columns] of those parts, 0 at padding; a window itself holds inputs only."""
    targets = np.zeros((len(parts), columns), dtype=np.int64)
    for lane, part in enumerate(parts):
        if part is not None:
            stream, span = part
            first = span.stop - span.scored + 1
            targets[lane, : span.scored] = stream.sequence[first : span.stop + 1]
    return _moved(torch.from_numpy(targets), device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; to a GPU from pinned memory, so that nobody waits for the copy."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
