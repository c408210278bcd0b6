"""Tokens drawn independently and uniformly from a few symbols: there is nothing to learn of them.

Before such a token is drawn, every symbol is as likely as any other, whatever was read before. So
an honest method gives the one that comes no more probability, on average, than it gives another
one: the rank of the true symbol among all of them is uniform. A method that sees tokens early, by
whatever way, ranks it higher. Symbols recur, so that what recalls by context has something to find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tta_bench.auditing.finding import Finding
from tta_bench.cost.counter import count_flops
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import Engine
from tta_bench.engine.step import Step
from tta_bench.engine.streams import open_stream, step_shape
from tta_bench.model.scores import Scored, Scores

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.engine.protocol import Protocol, Span
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window

SYMBOLS = 32

SIGMAS = 5.5
"""Standard errors of a mean rank that chance does not explain: 2e-8 for each of some 20 groups."""


@dataclass(frozen=True)
class Nothing:
    """What reading such tokens showed.

    Attributes:
        finding: whether true symbols rank higher than others.
        step_seconds: the time that a step of one lane takes.
        counted: the shapes of all steps, and the FLOPs counted in them; empty where they were not.
    """

    finding: Finding
    step_seconds: float
    counted: list[tuple[StepShape, float]]


def read_nothing(
    method: Method,
    protocol: Protocol,
    prefix_id: int | None,
    tokens: int,
    known: np.ndarray,
    random: np.random.Generator,
) -> Nothing:
    """Reads independent tokens through a fresh instance with one lane.

    Args:
        method: the instance.
        protocol: the protocol of the run.
        prefix_id: its prefix token.
        tokens: how many are read.
        known: ids that documents of the run hold, of which the symbols are drawn.
        random: draws symbols and tokens.
    """
    pool = np.unique(known)
    symbols = random.choice(pool, size=min(SYMBOLS, len(pool)), replace=False)
    places = random.integers(len(symbols), size=tokens)
    document = TokenizedDocument("independent", symbols[places].astype(np.int32), 0, 0, "")
    spans = list(open_stream(0, document, protocol, prefix_id).spans)
    step = _RankedStep(method, symbols, random)
    engine = Engine(method, protocol, prefix_id, debug=True, step=step)
    results = list(engine.run([document]))
    shapes = [step_shape(span, protocol) for span in spans[: len(step.flops)]]
    counted = list(zip(shapes, step.flops, strict=True))
    reason = results[0].reason if results[0].nll is None else None
    finding = _finding(step.ranks, spans, len(symbols), reason)
    return Nothing(finding, float(np.median(engine.timer.seconds)), counted)


class _RankedStep(Step):
    """The engine's step, which ranks the true symbol of each prediction and counts FLOPs."""

    def __init__(self, method: Method, symbols: np.ndarray, random: np.random.Generator):
        super().__init__(method)
        self.symbols = torch.from_numpy(symbols.astype(np.int64))
        self.random = random
        self.ranks: list[np.ndarray] = []
        self.flops: list[float] = []

    def __call__(self, window: Window, read_targets: Callable[[], Tensor]) -> Scored:
        taken: list[Scored] = []
        take = super().__call__
        self.flops.append(count_flops(lambda: taken.append(take(window, read_targets))).flops)
        return taken[0]

    def scored(self, scores: Scores, read_targets: Callable[[], Tensor], mask: Tensor) -> Scored:
        ranked = _Ranked(scores, self.symbols.to(mask.device))
        scored = super().scored(ranked, read_targets, mask)
        values = ranked.values[0, : int(mask[0].sum())]  # [n, symbols]
        true = read_targets()[0, : len(values), None] == self.symbols.to(mask.device)
        own = values.masked_fill(~true, -math.inf).max(-1, keepdim=True).values
        below = (values < own).sum(-1).cpu().numpy()
        ties = (values == own).sum(-1).cpu().numpy()  # itself included
        ranks = below + self.random.random(len(below)) * ties
        self.ranks.append(ranks / values.shape[-1])
        return scored


def _finding(
    ranks: list[np.ndarray], spans: list[Span], symbols: int, reason: str | None
) -> Finding:
    """Whether the ranks, each uniform between 0 and 1 for an honest method, are."""
    if reason is not None:
        sentence = f"independent tokens are read no better than chance: {reason}."
        return Finding("nothing to learn", "pass", None, sentence)
    every = np.concatenate(ranks)
    worst, where = -math.inf, ""
    for name, group in _groups(ranks):
        sigmas = (group.mean() - 0.5) * math.sqrt(12 * len(group))
        if sigmas > worst:
            worst, where = float(sigmas), name
    if worst > SIGMAS:
        sentence = (
            f"of {len(every)} independent tokens over {symbols} symbols, true ones are ranked "
            f"{worst:.1f} standard errors above chance ({where}): they were seen early."
        )
        return Finding("nothing to learn", "fail", worst, sentence)
    sentence = (
        f"{len(every)} independent tokens over {symbols} symbols are ranked as by chance "
        f"(at most {worst:.1f} standard errors above, {where})."
    )
    return Finding("nothing to learn", "pass", worst, sentence)


def _groups(ranks: list[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Stretches of the document, and columns of its chunks, where a leak may show."""
    every = np.concatenate(ranks)
    yield "all of them", every
    start = 256
    while start < len(every):
        yield f"from token {start} on", every[start:]
        start *= 2
    full = [chunk for chunk in ranks if len(chunk) == len(ranks[0])]
    table = np.stack(full)
    columns = table.shape[1]
    for name, column in (("first", 0), ("second", 1), ("next to last", -2), ("last", -1)):
        if columns >= 4:
            yield f"{name} columns of chunks", table[:, column]
    for part in np.array_split(np.arange(columns), min(8, columns)):
        yield f"columns {part[0]} to {part[-1]} of chunks", table[:, part].ravel()


class _Ranked(Scores):
    """Scores that keep what they give to the symbols, in every row that is asked for."""

    def __init__(self, scores: Scores, symbols: Tensor):
        super().__init__(*scores.shape)
        self.normalised = scores.normalised
        self.scores = scores
        self.symbols = symbols
        self._kept: list[Tensor] = []

    def rows(self, start: int, stop: int) -> Tensor:
        rows = self.scores.rows(start, stop)
        self._kept.append(rows.detach()[..., self.symbols].float())
        return rows

    @property
    def values(self) -> Tensor:
        """[B, C, symbols], as the rows have them."""
        return torch.cat(self._kept, dim=1)
