"""A stretch of independent uniform tokens: nobody can read it better than ln V, save by leaking."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tta_bench.audit.finding import Finding
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import Engine

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.engine.protocol import Protocol

SIGMAS = 5.0
"""Standard errors below ln V that chance does not explain."""


@dataclass(frozen=True)
class Nothing:
    """What reading uniform tokens showed, and how long a step of one lane takes."""

    finding: Finding
    step_seconds: float


def read_nothing(
    method: Method,
    protocol: Protocol,
    prefix_id: int | None,
    tokens: int,
    random: np.random.Generator,
) -> Nothing:
    """Reads `tokens` uniform tokens through a fresh instance with one lane.

    Whatever is predicted before a uniform token is drawn, its expected loss is at least ln V. So a
    mean below that by more than `SIGMAS` standard errors means that tokens were seen early.
    """
    vocabulary = method.model.vocab_size
    ids = random.integers(vocabulary, size=tokens).astype(np.int32)
    engine = Engine(method, protocol, prefix_id, debug=True)
    started = time.perf_counter()
    results = list(engine.run([TokenizedDocument("uniform", ids, 0, 0, "")]))
    seconds = engine.timer.seconds
    step_seconds = float(np.median(seconds)) if seconds else time.perf_counter() - started
    result = results[0]
    if result.nll is None:
        sentence = f"uniform tokens could not be read: {result.reason}."
        return Nothing(Finding("nothing to learn", "skip", None, sentence), step_seconds)
    excess = result.nll.astype(np.float64) - math.log(vocabulary)
    error = float(excess.std()) / math.sqrt(len(excess))
    mean = float(excess.mean())
    if mean < -max(SIGMAS * error, 1e-4):
        sentence = (
            f"{len(excess)} independent uniform tokens were read {-mean:.3g} nats better than "
            f"ln {vocabulary}, which only a method that sees them early can do."
        )
        return Nothing(Finding("nothing to learn", "fail", mean, sentence), step_seconds)
    sentence = (
        f"{len(excess)} independent uniform tokens cost {mean:+.3g} nats a token over "
        f"ln {vocabulary}."
    )
    return Nothing(Finding("nothing to learn", "pass", mean, sentence), step_seconds)
