"""score predicts: it learns nothing, changes nothing, and gives whole distributions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tta_bench.engine.streams import Step
from tta_bench.model.scores import NORMALISATION_TOLERANCE
from tta_bench.validity.lab import Found, Lab, compared
from tta_bench.validity.models import VOCAB, document
from tta_bench.validity.reader import (
    CHUNK,
    Reader,
    largest_difference,
    log_probabilities,
)
from tta_bench.validity.tensors import changed, shared_weights, snapshot

_LENGTH = 3 * CHUNK


def runs(lab: Lab) -> Found:
    """Reads two documents in two lanes."""
    documents = [document(_LENGTH, 21), document(_LENGTH, 22)]
    rows = torch.cat(lab.read(documents, lanes=2))
    gold = torch.tensor([token for text in documents for token in text.token_ids])
    nll = -rows.gather(1, gold.long()[:, None])
    wrong = int((~nll.isfinite()).sum() + rows.isnan().any(dim=1).sum())
    if wrong:
        return "fail", float(wrong), f"{wrong} tokens", "Losses of these tokens are not finite."
    mean = float(nll.mean())
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


class _Sums(Reader):
    """Measures how far the rows are from sums of one, before the engine would refuse them."""

    worst = 0.0
    own = False

    def score(self, step: Step) -> Tensor:
        scores = self.scores(step)
        rows = log_probabilities(scores, scores.full())
        self.own = self.own or scores.normalised
        sums = rows.detach().double().logsumexp(-1)[step.window.mask].abs()
        self.worst = max(self.worst, float(sums.nan_to_num(nan=float("inf")).max()))
        return rows


def normalised(lab: Lab) -> Found:
    """Sums every row over the whole vocabulary."""
    reader = _Sums(lab.fresh())
    reader.read([document(_LENGTH, 25)])
    figure = f"|log sum| {reader.worst:.1e}"
    if reader.worst > NORMALISATION_TOLERANCE:
        sentence = f"Probabilities over all {VOCAB} tokens do not sum to one."
        return "fail", reader.worst, figure, sentence
    who = "The method's own probabilities" if reader.own else "Logits, normalised by the engine,"
    return "pass", reader.worst, figure, f"{who} sum to one over all {VOCAB} tokens."


class _Twice(Reader):
    """Scores every step again before adapting, whole and a column at a time."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.worst = 0.0
        self.changed: set[str] = set()

    def score(self, step: Step) -> Tensor:
        before = snapshot(self.method)
        first = super().score(step)
        self.changed |= set(changed(before, snapshot(self.method)))
        kept = first.detach().clone()
        scores = self.scores(step)
        again = log_probabilities(scores, scores.full())
        single = torch.cat(
            [
                log_probabilities(scores, scores.rows(i, i + 1)).detach()
                for i in range(scores.shape[1])
            ],
            dim=1,
        )
        for rows in (again.detach(), single):
            self.worst = max(self.worst, largest_difference([kept], [rows]))
        return again


def twice(lab: Lab) -> Found:
    """Scores every step twice."""
    reader = _Twice(lab.fresh())
    reader.read([document(_LENGTH, 26)])
    return compared(
        reader.worst,
        "Scoring a chunk again, whole or a column at a time, gives the same distributions.",
        "Scoring the same chunk again gives other distributions.",
    )


def untouched(lab: Lab) -> Found:
    """Compares weights and state around score, and the shared weights around a document."""
    method = lab.fresh()
    weights = shared_weights(lab.model)
    reader = _Twice(method)
    reader.read([document(_LENGTH, 27)])
    in_score = sorted(reader.changed)
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
