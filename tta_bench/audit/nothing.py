"""A stretch of independent uniform tokens: nobody can read it better than ln V, save by leaking."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tta_bench.audit.counted import CountedStep
from tta_bench.audit.finding import Finding
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import DocumentResult, Engine
from tta_bench.engine.streams import open_stream, step_shape

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.engine.protocol import Protocol
    from tta_bench.model.step_shape import StepShape

SIGMAS = 5.0
"""Standard errors below ln V that chance does not explain."""


@dataclass(frozen=True)
class Nothing:
    """What reading uniform tokens showed.

    Attributes:
        finding: whether they were read better than anybody can.
        step_seconds: the time that a step of one lane takes.
        counted: the shape of the second step, or of the only one, and the FLOPs counted in it.
    """

    finding: Finding
    step_seconds: float
    counted: tuple[StepShape, float]


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
    document = TokenizedDocument("uniform", ids, 0, 0, "")
    spans = list(open_stream(0, document, protocol, prefix_id).spans)
    number = min(1, len(spans) - 1)
    step = CountedStep(method, number)
    engine = Engine(method, protocol, prefix_id, debug=True, step=step)
    results = list(engine.run([document]))
    step_seconds = min(engine.timer.seconds)  # the counted one takes longer
    counted = step_shape(spans[number], protocol), step.flops or 0.0
    return Nothing(_finding(results[0], vocabulary), step_seconds, counted)


def _finding(result: DocumentResult, vocabulary: int) -> Finding:
    if result.nll is None:
        sentence = f"uniform tokens are read no better than chance: {result.reason}."
        return Finding("nothing to learn", "pass", None, sentence)
    excess = result.nll.astype(np.float64) - math.log(vocabulary)
    error = float(excess.std()) / math.sqrt(len(excess))
    mean = float(excess.mean())
    if mean < -max(SIGMAS * error, 1e-4):
        sentence = (
            f"{len(excess)} independent uniform tokens were read {-mean:.3g} nats better than "
            f"ln {vocabulary}, which only a method that sees them early can do."
        )
        return Finding("nothing to learn", "fail", mean, sentence)
    sentence = (
        f"{len(excess)} independent uniform tokens cost {mean:+.3g} nats a token over "
        f"ln {vocabulary}."
    )
    return Finding("nothing to learn", "pass", mean, sentence)
