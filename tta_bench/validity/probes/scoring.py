"""score predicts: it learns nothing, changes nothing, and gives whole distributions."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from tta_bench.model.scores import NORMALISATION_TOLERANCE, Scores
from tta_bench.validity.hashing import other_hashes
from tta_bench.validity.lab import SAME, Found, Lab, compared
from tta_bench.validity.models import document, quiet_model, uniform_document
from tta_bench.validity.reader import (
    CHUNK,
    PLAIN,
    WIDE,
    ObservedStep,
    Reader,
    largest_difference,
    log_probabilities,
)
from tta_bench.validity.tensors import changed, snapshot

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.window import Window

_LENGTH = 3 * CHUNK
_SMALL_AND_WIDE = ((PLAIN, _LENGTH), (WIDE, 300))

_SIGMAS = 5.0
"""Standard errors below ln V that chance does not explain."""


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
    difference = largest_difference(one, other)
    if difference == 0:
        with other_hashes(lab.subject.cls):
            hashed = largest_difference(one, lab.read(documents))
        if hashed > 0:
            sentence = (
                "It predicts by hash() of strings, which differs from process to process; use "
                "zlib.crc32 or hashlib."
            )
            return "fail", hashed, f"{hashed:.1e} nats", sentence
    return compared(
        difference,
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
    worst, own, vocabulary = 0.0, False, lab.model.vocab_size
    for protocol, length in _SMALL_AND_WIDE:
        method = lab.fresh()
        step = _Sums(method)
        Reader(method, protocol, step=step).read([document(length, 25)])
        worst, own = max(worst, step.worst), own or step.own
    figure = f"|log sum| {worst:.1e}"
    if worst > NORMALISATION_TOLERANCE:
        sentence = f"Probabilities over all {vocabulary} tokens do not sum to one."
        return "fail", worst, figure, sentence
    who = "The method's own probabilities" if own else "Logits, normalised by the engine,"
    return "pass", worst, figure, f"{who} sum to one over all {vocabulary} tokens."


class _Twice(ObservedStep):
    """Scores every step again before adapting, whole and in slices, the first of one column."""

    def __init__(self, method: Method):
        super().__init__(method)
        self.worst = 0.0
        self.changed: set[str] = set()

    def scores(self, window: Window) -> Scores:
        before, spare = snapshot(self.method), window.copy()
        scores = super().scores(window)
        first = log_probabilities(scores, scores.full()).detach().clone()
        self.changed |= set(changed(before, snapshot(self.method)))
        again = super().scores(spare)
        width = again.shape[1]
        cuts = sorted({0, 1, 2, width // 4, width // 2 + 1, width - 1, width} & {*range(width + 1)})
        slices = [again.rows(start, stop) for start, stop in itertools.pairwise(cuts)]
        for rows in (again.full(), torch.cat(slices, dim=1)):
            found = log_probabilities(again, rows).detach()
            self.worst = max(self.worst, largest_difference([first], [found]))
        return again


def twice(lab: Lab) -> Found:
    """Scores every step twice."""
    worst = 0.0
    for protocol, length in _SMALL_AND_WIDE:
        method = lab.fresh()
        step = _Twice(method)
        Reader(method, protocol, step=step).read([document(length, 26)])
        worst = max(worst, step.worst)
    return compared(
        worst,
        "Scoring a chunk again, whole or in slices, gives the same distributions.",
        "Scoring the same chunk again gives other distributions.",
    )


def untouched(lab: Lab) -> Found:
    """Compares weights and state around score, and all that methods share around documents."""
    in_score: set[str] = set()
    with _started_threads() as threads:
        for protocol, length in _SMALL_AND_WIDE:
            method = lab.fresh()
            threads.clear()  # those of a library that reads data are done before the first document
            step = _Twice(method)
            Reader(method, protocol, step=step).read([document(length, 27)])
            method.reset(0)
            in_score |= step.changed
            if threads:
                sentence = f"It works in threads, which no cost shows: {_named(threads)}."
                return "fail", float(len(threads)), f"{len(threads)} threads", sentence
    tensors = len(snapshot(method))
    if in_score:
        figure = f"{len(in_score)} tensors"
        return "fail", float(len(in_score)), figure, f"score changed {_named(sorted(in_score))}."
    harm = list(dict.fromkeys([*lab.spoiled, *lab.harm()]))
    if harm:
        sentence = f"What all lanes and methods share was left changed: {_named(harm)}."
        return "fail", float(len(harm)), f"{len(harm)} things", sentence
    figure = f"0 of {tensors} tensors"
    sentence = (
        "score changes no weight and no state; model, PyTorch's settings and the bench's functions "
        "are left as they were."
    )
    return "pass", 0.0, figure, sentence


@contextmanager
def _started_threads() -> Iterator[list[str]]:
    """The names of threads as they are started inside the block."""
    names: list[str] = []
    start = threading.Thread.start

    def noted(self: threading.Thread, *args: Any) -> None:
        names.append(self.name)
        start(self, *args)

    threading.Thread.start = noted  # type: ignore[method-assign]
    try:
        yield names
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]


def nothing_to_learn(lab: Lab) -> Found:
    """Reads independent uniform tokens, which nobody predicts better than ln V, save by leaking.

    Off the frozen model's own errors a small gain shows best: its distributions are almost uniform.
    """
    model = quiet_model() if lab.model.random_weights else lab.model
    best, error = math.inf, 0.0
    for protocol, length in ((PLAIN, 5 * CHUNK), (WIDE, 640)):
        documents = [uniform_document(length, 28 + i, model.vocab_size) for i in range(4)]
        rows = torch.cat(Reader(lab.fresh(4, model), protocol).read(documents))
        gold = torch.tensor([token for text in documents for token in text.token_ids])
        excess = -rows.gather(1, gold.long()[:, None])[:, 0].double() - math.log(model.vocab_size)
        mean = float(excess.mean())
        if mean < best:
            best, error = mean, float(excess.std()) / math.sqrt(len(excess))
    figure = f"{best:+.1e} nats"
    if best < -max(_SIGMAS * error, SAME):
        sentence = (
            "Independent uniform tokens are predicted better than chance: it sees them early."
        )
        return "fail", best, figure, sentence
    return "pass", best, figure, "Independent uniform tokens are predicted no better than chance."


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
