"""Random windows of a flat token array, cut by data-loader workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class RandomWindows(Dataset[int]):
    """``count`` windows of ``length`` tokens; window i starts at a place drawn from (seed, i), so a
    run can be repeated.

    The items are starts; :meth:`collate` cuts a whole batch at once, which keeps a worker's time
    per batch under a millisecond.
    """

    def __init__(self, path: Path, length: int, count: int, seed: int) -> None:
        self.tokens = np.load(path, mmap_mode="r")
        self.length, self.count, self.seed = length, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        last = len(self.tokens) - self.length
        return int(np.random.default_rng((self.seed, index)).integers(0, last + 1))

    def collate(self, starts: list[int]) -> dict[str, Tensor]:
        """``input_ids`` and ``labels``, both [B, length] int64 (the model shifts the labels
        itself).
        """
        rows = np.asarray(starts)[:, None] + np.arange(self.length)
        ids = torch.from_numpy(self.tokens[rows].astype(np.int64))
        return {"input_ids": ids, "labels": ids}
