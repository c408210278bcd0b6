"""Lanes: documents being read side by side, collated into one window a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tta_bench.protocol import Protocol, Span
from tta_bench.window import Window

if TYPE_CHECKING:
    from tta_bench.documents import TokenizedDocument
    from tta_bench.model.cache import LaneCache


@dataclass
class Stream:
    """One document being read left to right, once."""

    index: int
    document: TokenizedDocument
    sequence: np.ndarray
    spans: Iterator[Span]
    tokens_expected: int
    nll: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tokens_scored(self) -> int:
        """Tokens scored so far."""
        return sum(len(part) for part in self.nll)

    @property
    def finished(self) -> bool:
        """True once every planned token has been scored."""
        return self.tokens_scored == self.tokens_expected


def open_stream(
    index: int, document: TokenizedDocument, protocol: Protocol, prefix_id: int | None
) -> Stream:
    """Starts reading a document; `prefix_id` stands before it where the protocol uses one."""
    sequence = document.token_ids.astype(np.int64)
    if protocol.uses_prefix and prefix_id is not None:
        sequence = np.concatenate([[prefix_id], sequence])
    expected = sum(span.scored for span in protocol.plan(len(sequence)))
    return Stream(index, document, sequence, protocol.plan(len(sequence)), expected)


@dataclass
class Step:
    """What one step reads, the targets that only the engine and `adapt` may see, their number."""

    window: Window
    targets: Tensor
    tokens: int


def collate(
    parts: list[tuple[Stream, Span] | None], device: torch.device, past: LaneCache | None
) -> Step:
    """Right-pads the lanes' windows into one batch; None is an idle lane."""
    lengths = [0 if part is None else part[1].stop - part[1].start for part in parts]
    scored = [0 if part is None else part[1].scored for part in parts]
    inputs = np.zeros((len(parts), max(lengths)), dtype=np.int64)
    targets = np.zeros((len(parts), max(scored)), dtype=np.int64)
    for lane, part in enumerate(parts):
        if part is not None:
            stream, span = part
            inputs[lane, : lengths[lane]] = stream.sequence[span.start : span.stop]
            first = span.stop - span.scored + 1
            targets[lane, : scored[lane]] = stream.sequence[first : span.stop + 1]
    window = Window(
        input_ids=torch.from_numpy(inputs).to(device),
        lengths=torch.tensor(lengths, device=device),
        scored=torch.tensor(scored, device=device),
        chunk_size=max(scored),
        past=past,
    )
    return Step(window, torch.from_numpy(targets).to(device), sum(scored))
