"""Where the audit replaces a document's future: late, inside chunks and at their edges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tta_bench.engine.protocol import Span


@dataclass(frozen=True)
class Place:
    """A prediction after which nothing of the document is as it was.

    Attributes:
        step: the number of the step that makes the prediction.
        column: the prediction's column in that step's chunk. It and those before it must come out
            as they did in the run; the tokens that follow its inputs are other ones.
    """

    step: int
    column: int


def choose_places(
    spans: list[Span], last: int, looks: int, random: np.random.Generator
) -> list[Place]:
    """Places in steps 0 .. `last`, in order; the last one is where the reading ends.

    The others lie past powers of two of the tokens scored, the largest first, since a memory that
    wraps, or a path that only long documents take, shows no earlier.

    Args:
        spans: the windows of the document.
        last: the step at which the reading ends.
        looks: the most places beside the last one.
        random: draws the columns.
    """
    ends = np.cumsum([span.scored for span in spans[: last + 1]])
    powers = [2**k for k in range(int(ends[-1]).bit_length() - 1, -1, -1)]
    past = [int(np.searchsorted(ends, power, side="right")) for power in powers]
    steps = list(dict.fromkeys(step for step in past if step < last))[:looks]
    return [
        *(_place(spans, step, turn, random) for turn, step in enumerate(sorted(steps))),
        _place(spans, last, int(random.integers(4)), random),
    ]


def _place(spans: list[Span], step: int, turn: int, random: np.random.Generator) -> Place:
    """A place in a step's chunk: late in it, next to its end, at its start, at its end, in turn."""
    columns = spans[step].scored
    late = int(random.integers(columns // 2, max(columns - 1, columns // 2 + 1)))
    return Place(step, (late, max(columns - 2, 0), 0, columns - 1)[turn % 4])


def other_tokens(
    tokens: np.ndarray, known: Iterable[int], random: np.random.Generator
) -> np.ndarray:
    """[n] token ids, each another than `tokens` [n] has there, drawn from `known` ids.

    Args:
        tokens: what is replaced.
        known: ids that documents of the run hold, so that none is padding or a control token.
        random: draws them.
    """
    pool = np.unique(np.fromiter(known, dtype=np.int64))
    if len(pool) < 2:
        pool = np.array([pool[0], pool[0] + 1 if pool[0] == 0 else pool[0] - 1])
    drawn = random.integers(len(pool), size=len(tokens))
    clash = pool[drawn] == tokens
    return pool[np.where(clash, (drawn + 1) % len(pool), drawn)]
