"""What a method gains on each token: the baseline's loss minus the method's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.errors import BenchError
from tta_bench.statistics import clusters_of, never_reset, paired_difference
from tta_bench.tables.ranking import missing_documents, missing_reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tta_bench.store import Row, Run


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of a run's tokens.

    Attributes:
        run: the run.
        rows: its documents that are done, in the order of the dataset.
        values: [n_g] losses of each of these documents, nats.
    """

    run: Run
    rows: tuple[Row, ...]
    values: tuple[NDArray[np.float32], ...]

    @property
    def clusters(self) -> list[str]:
        """Which of the documents count as one."""
        return clusters_of(self.rows, never_reset(self.run))


@dataclass(frozen=True, eq=False)
class Gains:
    """A run against the baseline, token by token.

    Attributes:
        run: the run of the method.
        rows: the documents that both have done.
        values: [n_g] baseline minus method for each of them, nats; above 0 the method is better.
        before: [n_g] the baseline's losses.
    """

    run: Run
    rows: tuple[Row, ...]
    values: tuple[NDArray[np.float32], ...]
    before: tuple[NDArray[np.float32], ...]

    @property
    def clusters(self) -> list[str]:
        """Which of the documents count as one."""
        return clusters_of(self.rows, never_reset(self.run))


def losses_of(run: Run) -> Losses:
    """The losses of every document that is done.

    Raises:
        BenchError: a vector was not published, or is damaged; the sentence names it.
    """
    rows = tuple(row for row in run.rows if row.status == "done")
    return Losses(run, rows, tuple(run.nll(row) for row in rows))


def gains_of(losses: Losses, baseline: Losses) -> Gains:
    """The gains on the documents that both have done.

    Raises:
        BenchError: they did not read the same documents.
    """
    pair = paired_difference(losses.rows, baseline.rows)
    if pair.delta is None:
        raise BenchError(f"{losses.run.spec} is not compared: {pair.reason}.")
    theirs = {row.key: value for row, value in zip(baseline.rows, baseline.values, strict=True)}
    mine = [
        (row, value)
        for row, value in zip(losses.rows, losses.values, strict=True)
        if row.key in theirs
    ]
    before = tuple(theirs[row.key] for row, _ in mine)
    values = tuple(old - value for old, (_, value) in zip(before, mine, strict=True))
    return Gains(losses.run, tuple(row for row, _ in mine), values, before)


def all_losses(runs: Sequence[Run]) -> tuple[list[Losses], list[str]]:
    """The losses of the runs that have done all documents, and a sentence for each other run.

    A run that lacks documents that others have would have a curve over other tokens.
    """
    found, sentences = [], []
    for run, missing in zip(runs, missing_documents(runs), strict=True):
        try:
            losses = losses_of(run)
        except BenchError as error:
            sentences.append(f"{run.spec} has no curves: {error}")
            continue
        if not losses.rows:
            sentences.append(f"{run.spec} has no curves: it has done no document.")
        elif missing:
            why = missing_reason(len(losses.rows), missing)
            sentences.append(f"{run.spec} has no curves: {why}.")
        else:
            found.append(losses)
    return found, sentences
