"""Training streams: each lane reads one document after another, divided into segments.

A document is read in windows of W tokens, exactly as in evaluation: window k predicts tokens
kW .. kW+W-1 of the document, from the prefix token and the tokens before. Its last window is
padded. A *segment* is the T tokens that a lane reads in one training step: one or several windows.
A document ends, and the next begins, at the edge of a window. Nothing depends on how lanes are
distributed over processes or accumulated batches.

Where reconstruction is trained, too, every window is followed by a *slice*: a random piece, no
longer than a window, of what the segment has held of its document up to there.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tta_bench.errors import UsageError


@dataclass(frozen=True)
class TokenArray:
    """Documents as one array of token ids, each document after its prefix token.

    Attributes:
        ids: [all tokens] token ids of any integer type.
        starts: [documents + 1] int64, where each document begins, and the end of `ids`.
    """

    ids: NDArray
    starts: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Number of predictions in one pass over all documents."""
        return int(self.starts[-1]) - len(self.starts) + 1


class LaneSegments(Dataset[int]):
    """`steps` x `lanes` segments; item i belongs to lane i % lanes at step i // lanes.

    Args:
        documents: the documents; each is read once per epoch, in a random order.
        lanes: number of streams that are read side by side.
        windows: lengths W; lane l reads in windows of `windows[l % len(windows)]` tokens.
        segment: T, a multiple of every W.
        chunk: a divisor of every W; the starts of documents are given per chunk.
        steps: number of segments per lane.
        seed: seed for the order of the documents, and for slices.
        slices: whether batches say which slices are reconstructed.

    Raises:
        UsageError: the lengths do not divide each other, or no document has two tokens.
    """

    def __init__(
        self,
        documents: TokenArray,
        lanes: int,
        windows: Sequence[int],
        segment: int,
        chunk: int,
        steps: int,
        seed: int,
        slices: bool = False,
    ) -> None:
        if any(segment % window or window % chunk for window in windows):
            listed = ", ".join(map(str, windows))
            raise UsageError(
                f"the segment ({segment}) must be a multiple of every window ({listed}), and every "
                f"window a multiple of the chunk ({chunk}); a recipe sets train.windows and "
                "train.chunk."
            )
        if lanes % len(windows):
            raise UsageError(
                f"{lanes} lanes cannot be divided evenly among {len(windows)} windows."
            )
        self.documents, self.lanes, self.windows = documents, lanes, tuple(windows)
        self.segment, self.chunk, self.steps, self.seed = segment, chunk, steps, seed
        self.slices = slices
        self._plans = self._deal()

    def __len__(self) -> int:
        return self.steps * self.lanes

    def __getitem__(self, index: int) -> int:
        return index

    def window_of(self, lane: int) -> int:
        """W, the length of a lane's windows."""
        return self.windows[lane % len(self.windows)]

    @property
    def filled(self) -> float:
        """Share of the positions that contain a token and not padding."""
        held = sum(int(lengths.sum()) for _, lengths in self._plans)
        slots = sum(len(lengths) * self.window_of(i) for i, (_, lengths) in enumerate(self._plans))
        return held / slots

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a step reads on average, without padding."""
        return self.lanes * self.segment * self.filled

    def collate(self, items: Sequence[int]) -> dict[str, Tensor]:
        """A batch: `input_ids`, `labels`, `mask` [B, T], `fresh` [B, T / chunk] and `lane` [B].

        With slices `slices` [B, T / chunk, 2], too: place in the segment and length of the slice
        after the window that begins at each chunk.
        """
        size = len(items), self.segment
        inputs, labels = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        mask = np.zeros(size, dtype=bool)
        fresh = np.zeros((len(items), self.segment // self.chunk), dtype=bool)
        slices = np.zeros((*fresh.shape, 2), dtype=np.int64)
        for row, item in enumerate(items):
            window = self.window_of(item % self.lanes)
            draws = np.random.default_rng((self.seed, item)).random(self.segment // window)
            document = 0  # where what the segment holds of the window's document begins
            for start, place, begins, length in self.windows_in(item):
                inputs[row, start : start + length] = self.documents.ids[place : place + length]
                labels[row, start : start + length] = self.documents.ids[
                    place + 1 : place + length + 1
                ]
                mask[row, start : start + length] = True
                fresh[row, start // self.chunk] = begins
                document = start if begins else document
                # The label of a slice's last token has been read as well.
                room = start + length - 1 - document
                if room > 0:
                    offset = int(draws[start // window] * room)
                    found = document + offset, min(window, room - offset)
                    slices[row, start // self.chunk] = found
        batch = {
            "input_ids": torch.from_numpy(inputs),
            "labels": torch.from_numpy(labels),
            "mask": torch.from_numpy(mask),
            "fresh": torch.from_numpy(fresh),
            "lane": torch.tensor([item % self.lanes for item in items]),
        }
        return batch | {"slices": torch.from_numpy(slices)} if self.slices else batch

    def windows_in(self, item: int) -> Iterator[tuple[int, int, bool, int]]:
        """The windows of a segment: where each begins in it and in `documents.ids`, whether a
        document begins there, and how many tokens it holds.
        """
        lane = item % self.lanes
        window = self.window_of(lane)
        count = self.segment // window
        first = item // self.lanes * count
        places, lengths = (part[first : first + count] for part in self._plans[lane])
        for k, (place, length) in enumerate(zip(places.tolist(), lengths.tolist(), strict=True)):
            yield k * window, ~place if place < 0 else place, place < 0, length

    def _deal(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The windows of each lane: where each begins in `ids`, and its number of tokens.

        The place of a window that begins a document is stored as its complement, ~place. A lane
        that has ended its document takes the next one in the common order.
        """
        sizes = np.diff(self.documents.starts) - 1
        usable = np.flatnonzero(sizes > 0)
        if not len(usable):
            raise UsageError("there is no document of at least two tokens to train on.")
        random = np.random.default_rng(self.seed)
        needed = self.steps * self.segment
        parts: list[list[tuple[NDArray, NDArray]]] = [[] for _ in range(self.lanes)]
        # The lane that has read the least takes the next document.
        queue = [(0, lane) for lane in range(self.lanes)]
        while True:
            for number in random.permutation(usable):
                read, lane = queue[0]
                if read >= needed:
                    return [_joined(part) for part in parts]
                window = self.window_of(lane)
                start, size = int(self.documents.starts[number]), int(sizes[number])
                offsets = np.arange(0, size, window, dtype=np.int64)
                places = start + offsets
                places[0] = ~places[0]
                parts[lane].append((places, np.minimum(window, size - offsets)))
                heapq.heapreplace(queue, (read + len(offsets) * window, lane))


def _joined(parts: list[tuple[NDArray, NDArray]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    places, lengths = zip(*parts, strict=True)
    return np.concatenate(places), np.concatenate(lengths)
