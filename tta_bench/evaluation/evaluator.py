"""The evaluator of LongPPL: a frozen model that reads a text whole and in short windows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from tta_bench.cost.model_flops import ModelCost
from tta_bench.documents.encode import Encoder
from tta_bench.errors import ModelError, UsageError
from tta_bench.model.positions import check_positions
from tta_bench.model.precision import float32_products
from tta_bench.model.scores import token_nll
from tta_bench.model.step_shape import StepShape
from tta_bench.model.window import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tta_bench.model.language_model import LanguageModel
    from tta_bench.statistics.key_tokens import KeyRule

_SHORTEST = 64  # tokens of a short context that a sentence suggests


@dataclass(frozen=True)
class Reading:
    """What an evaluator found in a text.

    Attributes:
        places: [k, 2] start and end of each key token in the text, in characters.
        losses: [n-1] losses in the whole text; empty where it was too short to be read.
        read: tokens that were read, those of short windows included.
        flops: FLOPs of that by formula.
        seconds: time that it took.
    """

    places: NDArray[np.int64]
    losses: NDArray[np.float32]
    read: int
    flops: float
    seconds: float


class Evaluator:
    """Finds the key tokens of texts.

    It reads with the special tokens that its tokenizer puts around a text, as the authors' code
    does; they count among the tokens of a short context.

    Args:
        model: the frozen model.
        rule: what makes a token key.

    Raises:
        ModelError: its tokenizer does not tell where in a text tokens are.
    """

    def __init__(self, model: LanguageModel, rule: KeyRule):
        self.model, self.rule = model, rule
        if not getattr(model.tokenizer, "is_fast", False):
            raise ModelError(
                f"the tokenizer of {model.name} does not say where in a text its tokens are; "
                "name an evaluator with a fast tokenizer."
            )
        self._encoder = Encoder(model.tokenizer, parse_controls=False, special=True)
        self._cost = ModelCost(model)

    def tokens(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self._encoder.encode(text)["input_ids"])

    def check(self, longest: int) -> None:
        """Raises UsageError where texts of at most so many tokens have no key tokens or are too
        long to be read at once.
        """
        rule, positions = self.rule, self.model.max_positions
        if longest <= rule.trunc_len:
            raise UsageError(
                f"no document has more than the {rule.trunc_len} tokens of a short context of "
                f"{rule.name}, so that none can be key; {_shorter(longest)}."
            )
        scaled = positions is not None and rule.trunc_len > positions // 2
        check_positions(
            self.model,
            longest,
            f"the evaluator of {rule.name} reads",
            f"name another by `key-tokens --evaluator`, or run on documents cut with --max-tokens "
            f"{positions}" + (f" and {_shorter(positions or 0)}" if scaled else ""),
        )

    def read(self, text: str) -> Reading:
        """Reads a text and finds its key tokens.

        A text that is no longer than a short context has none and is not read.

        Raises:
            ModelError: it does not fit into memory.
        """
        began = time.monotonic()
        encoding = self._encoder.encode(text)
        ids = np.asarray(encoding["input_ids"], dtype=np.int64)
        offsets = np.array(encoding.encodings[0].offsets, dtype=np.int64).reshape(-1, 2)
        windows = list(self.rule.windows(len(ids)))
        if not windows:
            return Reading(offsets[:0], np.zeros(0, np.float32), 0, 0.0, 0.0)
        try:
            full, short = self.losses(ids)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"memory ran out while {self.model.name} read {len(ids)} tokens at once; name a "
                "smaller evaluator by `key-tokens --evaluator`, or run on documents cut with "
                "--max-tokens."
            ) from error
        shapes = [StepShape(len(ids) - 1, len(ids) - 1, 0)]
        shapes += [StepShape(b - a - 1, b - a - self.rule.trunc_len, 0) for a, b in windows]
        return Reading(
            offsets[self.rule.key(full, short)],
            full,
            sum(shape.inputs for shape in shapes),
            sum(map(self._cost.forward, shapes)),
            time.monotonic() - began,
        )

    def losses(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[n-1] losses in the whole text, and [n - trunc_len] in short windows.

        Windows of one length are read together, as many as have no more tokens than the text.
        """
        (full,) = self._pass(ids[None], len(ids) - 1)
        short = []
        for length, windows in groupby(self.rule.windows(len(ids)), lambda ends: ends[1] - ends[0]):
            for batch in _batched(list(windows), max(1, len(ids) // length)):
                rows = np.stack([ids[start:stop] for start, stop in batch])
                short.append(self._pass(rows, length - self.rule.trunc_len).ravel())
        return full, np.concatenate(short)

    def _pass(self, rows: NDArray[np.int64], scored: int) -> NDArray[np.float32]:
        """[B, scored] losses of the last tokens of each row [B, L]."""
        tokens = torch.from_numpy(rows).to(self.model.device)
        lanes, length = rows.shape
        every = torch.ones(lanes, dtype=torch.int64, device=tokens.device)
        window = Window(tokens[:, :-1], every * (length - 1), every * scored, scored)
        with torch.no_grad(), float32_products(self.model.dtype):
            targets = tokens[:, -scored:]
            nll = token_nll(self.model.logits(window), lambda: targets, window.mask)
        losses: NDArray[np.float32] = nll.cpu().numpy()
        return losses


def _batched(items: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _shorter(tokens: int) -> str:
    """What to ask for where texts have so many tokens."""
    length = 1 << max(0, (tokens // 2).bit_length() - 1)
    if length < _SHORTEST:
        return "choose longer documents"
    return f"ask for longppl-{length}, which has another name since its numbers do not compare"
