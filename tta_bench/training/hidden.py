"""Hidden states of a frozen body, computed once and kept in files for the next trainings.

What a frozen body gives of a token depends on the texts and on the length of its window, and not on
the head, nor on lanes, segments and steps. So several heads on one base and corpus can share it:
the first computes what it reads and keeps it, the others read it. States are kept as they are, in
the dtype of the body, so that weights are those of a training that keeps nothing.

A folder holds, for each base and set of texts, a folder with two files a window length: `W.states`
[tokens, d], and `W.known` [tokens], True at the first token of each window that is there. Files are
as long as all texts and take the room of what was written.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tta_bench.errors import UsageError
from tta_bench.format import binary
from tta_bench.heads.slow_weights import base_identity
from tta_bench.model.language_model import LanguageModel
from tta_bench.training.streams import LaneSegments


class KeptHidden:
    """The kept states of a base on the texts of a training.

    Args:
        folder: where they are kept, of any number of bases and texts.
        model: the base; its body stays as it is.
        segments: the segments of the training.

    Raises:
        UsageError: the disk has not enough room for what has to be added.
    """

    def __init__(self, folder: Path, model: LanguageModel, segments: LaneSegments) -> None:
        self.segments, self.width, self.dtype = segments, model.hidden_size, model.dtype
        self.folder = folder / _identity(model, segments)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._opened: dict[tuple[int, str], Tensor] = {}
        needed, free = self.missing_bytes, shutil.disk_usage(folder).free
        if needed > free:
            raise UsageError(
                f"hidden states of this training take up to {binary(needed, 30)} GiB more, and "
                f"{folder} has {binary(free, 30)} GiB left: choose a folder with more room, or "
                "train without --hidden."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: another process opens its own."""
        return {**self.__dict__, "_opened": {}}

    @property
    def missing_bytes(self) -> int:
        """At most so many bytes have to be added for this training."""
        segments, lacking = self.segments, 0
        read = segments.steps * segments.lanes * segments.segment // len(segments.windows)
        for window in set(segments.windows):
            known = int(self._file(window, "known").sum()) * window
            wanted = min(len(segments.documents.ids), segments.windows.count(window) * read)
            lacking += max(0, wanted - known)
        return lacking * self.width * self.dtype.itemsize

    def collate(self, items: Sequence[int]) -> dict[str, Tensor]:
        """As `LaneSegments.collate`, with `item` [B], and `hidden` [B, T, d] where all is known."""
        batch = self.segments.collate(items)
        batch["item"] = torch.tensor(list(items))
        hidden = torch.zeros(*batch["input_ids"].shape, self.width, dtype=self.dtype)
        for row, item in enumerate(items):
            for window, here, there in self._windows(item):
                if not self._file(window, "known")[there.start]:
                    return batch
                hidden[row, here] = self._file(window, "states")[there]
        return {**batch, "hidden": hidden}

    def keep(self, items: Sequence[int], hidden: Tensor) -> Tensor:
        """Keeps the states [B, T, d] of these segments; returns them as they will be read."""
        kept = hidden.detach().to("cpu", self.dtype)
        for row, item in enumerate(items):
            for window, here, there in self._windows(item):
                self._file(window, "states")[there] = kept[row, here]
                self._file(window, "known")[there.start] = True  # last: what is said to be is there
        return hidden.to(self.dtype)

    def _windows(self, item: int) -> Iterator[tuple[int, slice, slice]]:
        """The windows of a segment: the length W of each, its place there and in the texts."""
        window = self.segments.window_of(item % self.segments.lanes)
        for here, place, _, length in self.segments.windows_in(item):
            yield window, slice(here, here + length), slice(place, place + length)

    def _file(self, window: int, kind: str) -> Tensor:
        """`W.states` [tokens, d] or `W.known` [tokens], mapped into memory; made where missing."""
        if (window, kind) not in self._opened:
            width, dtype = (self.width, self.dtype) if kind == "states" else (1, torch.bool)
            size = len(self.segments.documents.ids) * width
            file = str(self.folder / f"{window}.{kind}")
            flat = torch.from_file(file, shared=True, size=size, dtype=dtype)
            self._opened[window, kind] = flat.view(-1, width) if kind == "states" else flat
        return self._opened[window, kind]


def _identity(model: LanguageModel, segments: LaneSegments) -> str:
    """A name for the body, the texts, and what else moves the last digits."""
    documents = segments.documents
    parts = (base_identity(model, "frozen"), model.dtype, model.device.type, torch.__version__)
    digest = hashlib.sha256(repr(parts).encode())
    digest.update(documents.ids.tobytes())
    digest.update(documents.starts.tobytes())
    return digest.hexdigest()[:16]
