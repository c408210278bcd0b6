"""score predicts: it learns nothing, changes nothing, and gives whole distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tta_bench.model.scores import NORMALISATION_TOLERANCE, Scores
from tta_bench.validity.lab import Found, Lab, compared
from tta_bench.validity.models import VOCAB, document
from tta_bench.validity.reader import (
    CHUNK,
    ObservedStep,
    Reader,
    largest_difference,
    log_probabilities,
)
from tta_bench.validity.tensors import changed, shared_weights, snapshot

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.window import Window

_LENGTH = 3 * CHUNK


def runs(lab: Lab) -> Found:
    """Reads two documents in two lanes; a loss that is not finite is refused by the reader."""
    documents = [document(_LENGTH, 21), document(_LENGTH, 22)]
    rows = torch.cat(lab.read(documents, lanes=2))
    gold = torch.tensor([token for text in documents for token in text.token_ids])
    mean = -float(rows.gather(1, gold.long()[:, None]).mean())
    return "pass", mean, f"{mean:.2f} nats/token", "Reads two documents with finite losses."


def deterministic(lab: Lab) -> Found:
    """Reads documents that nothing has read before, twice, under one seed."""
    documents = [document(_LENGTH, 23), document(_LENGTH, 24)]
    one, other = (lab.read(documents) for _ in range(2))
    return compared(
        largest_difference(one, other),
        "Two fresh instances under one seed agree bit for bit.",
        "Two fresh instances under one seed differ: chance beside the seed, or a memory that "
        "outlives the instance.",
        0.0,
    )


class _Sums(ObservedStep):
    """Measures how far the sums of probabilities are from one."""

    worst = 0.0
    own = False

    def scores(self, window: Window) -> Scores:
        scores = super().scores(window)
        self.own = self.own or scores.normalised
        rows = log_probabilities(scores, scores.full()).detach()
        sums = rows.double().logsumexp(-1)[window.mask].abs()
        self.worst = max(self.worst, float(sums.nan_to_num(nan=float("inf")).max()))
        return scores


def normalised(lab: Lab) -> Found:
    """Sums every row over the whole vocabulary."""
    method = lab.fresh()
    step = _Sums(method)
    Reader(method, step=step).read([document(_LENGTH, 25)])
    figure = f"|log sum| {step.worst:.1e}"
    if step.worst > NORMALISATION_TOLERANCE:
        sentence = f"Probabilities over all {VOCAB} tokens do not sum to one."
        return "fail", step.worst, figure, sentence
    who = "The method's own probabilities" if step.own else "Logits, normalised by the engine,"
    return "pass", step.worst, figure, f"{who} sum to one over all {VOCAB} tokens."


class _Twice(ObservedStep):
    """Scores every step again before adapting, whole and a column at a time."""

    def __init__(self, method: Method):
        super().__init__(method)
        self.worst = 0.0
        self.changed: set[str] = set()

    def scores(self, window: Window) -> Scores:
        before = snapshot(self.method)
        scores = super().scores(window)
        first = log_probabilities(scores, scores.full()).detach().clone()
        self.changed |= set(changed(before, snapshot(self.method)))
        again = super().scores(window)
        columns = [again.rows(i, i + 1) for i in range(again.shape[1])]
        for rows in (again.full(), torch.cat(columns, dim=1)):
            found = log_probabilities(again, rows).detach()
            self.worst = max(self.worst, largest_difference([first], [found]))
        return again


def twice(lab: Lab) -> Found:
    """Scores every step twice."""
    method = lab.fresh()
    step = _Twice(method)
    Reader(method, step=step).read([document(_LENGTH, 26)])
    return compared(
        step.worst,
        "Scoring a chunk again, whole or a column at a time, gives the same distributions.",
        "Scoring the same chunk again gives other distributions.",
    )


def untouched(lab: Lab) -> Found:
    """Compares weights and state around score, and the shared weights around a document."""
    method = lab.fresh()
    weights = shared_weights(lab.model)
    step = _Twice(method)
    Reader(method, step=step).read([document(_LENGTH, 27)])
    in_score = sorted(step.changed)
    in_adapt = changed(weights, shared_weights(lab.model))
    tensors = len(snapshot(method))
    if in_score:
        figure = f"{len(in_score)} tensors"
        return "fail", float(len(in_score)), figure, f"score changed {_named(in_score)}."
    if in_adapt:
        sentence = f"The weights that all lanes and methods share were changed: {_named(in_adapt)}."
        return "fail", float(len(in_adapt)), f"{len(in_adapt)} tensors", sentence
    figure = f"0 of {tensors} tensors"
    return "pass", 0.0, figure, "score changes no weight and no state; adapt no shared weight."


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
