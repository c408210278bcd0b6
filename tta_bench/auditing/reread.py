"""A document read again by a fresh instance, alone, with another future: two checks in one reading.

Whatever a method predicted in its run, it must predict again when it reads the same tokens alone
(*again*: no memory of other documents, lanes or runs), and when the tokens that come later are
other ones (*future*: it had not seen them). How it peeks or remembers does not matter: here the
future is not the one that it was scored on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tta_bench.auditing.counted import CountedStep
from tta_bench.auditing.places import Place, other_tokens
from tta_bench.engine.loop import Engine
from tta_bench.engine.streams import open_stream
from tta_bench.model.precision import float32_products
from tta_bench.model.scores import DenseLogits, Scored, Scores

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.documents import TokenizedDocument
    from tta_bench.engine.protocol import Protocol
    from tta_bench.model.window import Window


class _Enough(Exception):
    """The last place has been read: the rest of the document has nothing to show."""


@dataclass
class Reread:
    """What a reading gave.

    Attributes:
        losses: of the steps up to the last place, in order, [tokens] float32; the last entry is
            the prediction after which the document is another one.
        looked: (index of the prediction, its losses [n] from the start of its chunk on) for every
            other place.
        last_flops: FLOPs that the counter saw in the last step.
    """

    losses: np.ndarray
    looked: list[tuple[int, np.ndarray]]
    last_flops: float | None


def reread(
    method: Method,
    protocol: Protocol,
    prefix_id: int | None,
    document: TokenizedDocument,
    places: list[Place],
    random: np.random.Generator,
) -> Reread:
    """Reads a document up to the last place, from which on it holds other tokens.

    At every other place the chunk is scored twice: first with other tokens behind the place, then
    as it is, and only the second time the method may learn from it.

    Args:
        method: a fresh instance with one lane.
        protocol: the protocol of the run.
        prefix_id: its prefix token.
        document: a document of the run.
        places: as `choose_places` gives them.
        random: draws the other tokens.

    Raises:
        Exception: whatever the method raises.
    """
    stream = open_stream(0, document, protocol, prefix_id)
    spans = list(stream.spans)
    first = len(stream.sequence) - len(document.token_ids)  # 1 where a prefix stands before it
    end = spans[places[-1].step]
    replaced = end.stop - end.scored + 1 + places[-1].column - first
    ids = document.token_ids.astype(np.int64)
    kept = int(ids[replaced])
    ids[replaced:] = other_tokens(ids[replaced:], document.token_ids, random)
    other = replace(document, token_ids=ids.astype(document.token_ids.dtype))
    step = _RereadStep(method, places, kept, document.token_ids, random)
    engine = Engine(method, protocol, prefix_id, debug=True, step=step)
    try:
        for _ in engine.run([other]):
            break
    except _Enough:
        pass
    return Reread(np.concatenate(step.losses_read), step.looked, step.flops)


class _RereadStep(CountedStep):
    """The engine's step, which looks aside at places and stops after the last one."""

    def __init__(
        self,
        method: Method,
        places: list[Place],
        kept: int,
        known: np.ndarray,
        random: np.random.Generator,
    ):
        super().__init__(method, places[-1].step)
        self.columns = {place.step: place.column for place in places}
        self.kept = kept
        self.known = known
        self.random = random
        self.last_column: int | None = None
        self.tokens = 0
        self.losses_read: list[np.ndarray] = []
        self.looked: list[tuple[int, np.ndarray]] = []

    def __call__(self, window: Window, read_targets: Callable[[], Tensor]) -> Scored:
        column = self.columns.get(self.number)
        if self.number == self.counted:
            assert column is not None
            self.last_column = column
            taken = super().__call__(window, read_targets)
            self.losses_read.append(_row(taken)[: column + 1])
            raise _Enough
        if column is not None:
            index = self.tokens + column
            self.looked.append((index, self._look(window, read_targets, column)))
        taken = super().__call__(window, read_targets)
        scored = int(window.scored[0])
        self.losses_read.append(_row(taken)[:scored])
        self.tokens += scored
        return taken

    def _look(self, window: Window, read_targets: Callable[[], Tensor], column: int) -> np.ndarray:
        """The losses of columns 0 .. `column` where the inputs behind them are other tokens."""
        ids = window.input_ids.clone()
        start = int(window.lengths[0] - window.scored[0]) + column + 1  # the first input unread
        stop = int(window.lengths[0])
        others = other_tokens(ids[0, start:stop].cpu().numpy(), self.known, self.random)
        ids[0, start:stop] = torch.from_numpy(others).to(ids)
        with (
            torch.set_grad_enabled(self.method.gradients),
            float32_products(self.method.model.dtype),
        ):
            scores = self.score(replace(window, input_ids=ids).copy())
            taken = self.scored(scores, read_targets, window.mask)
        return _row(taken)[: column + 1]

    def scored(self, scores: Scores, read_targets: Callable[[], Tensor], mask: Tensor) -> Scored:
        if self.last_column is None:
            return super().scored(scores, read_targets, mask)
        # Every row is complete before the run's own token stands among the targets.
        rows = scores.full()
        complete = DenseLogits(rows)
        complete.normalised = scores.normalised
        targets = read_targets().clone()
        targets[0, self.last_column] = self.kept
        return super().scored(complete, lambda: targets, mask)


def _row(taken: Scored) -> np.ndarray:
    return taken.nll.detach()[0].float().cpu().numpy().copy()
