"""The audit of one run: what is read again, how much of it, and what is made of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from tta_bench.audit.agreement import Tolerance, disagreement, tolerance_of
from tta_bench.audit.costs import cost_finding, declared_costs, flops_over, state_over
from tta_bench.audit.finding import AuditReport, Finding
from tta_bench.audit.holdings import held_bytes
from tta_bench.audit.nothing import Nothing, read_nothing
from tta_bench.audit.places import Place, choose_places
from tta_bench.audit.reread import Reread, reread
from tta_bench.cost.counter import count_flops
from tta_bench.engine.isolation.method import ask
from tta_bench.engine.outcome import outcome_of
from tta_bench.engine.streams import open_stream
from tta_bench.errors import UsageError
from tta_bench.model.step_shape import StepShape

if TYPE_CHECKING:
    from tta_bench.audit.frozen import FrozenModel
    from tta_bench.contract.method import Method
    from tta_bench.documents import TokenizedDocument
    from tta_bench.engine.protocol import Span
    from tta_bench.engine.trial import TrialSetup

Mode = Literal["auto", "full", "off"]
MODES: tuple[Mode, ...] = get_args(Mode)

SHARE = 0.095
"""Part of a method's own time that `auto` plans to take."""

LEAST_STEPS = 3
"""Steps that `auto` reads again however short the run was."""


def audit_mode(word: str) -> Mode:
    """The mode that a word names.

    Raises:
        UsageError: it names none.
    """
    if word not in MODES:
        raise UsageError(f"--audit must be one of {', '.join(MODES)}, not '{word}'.")
    return word


@dataclass(frozen=True)
class Subject:
    """A run that is over, as the audit sees it.

    Attributes:
        setup: the method, the model and the protocol.
        documents: those that are done, by their index in the dataset.
        losses: gives the recorded losses [tokens] of a document by its index.
        seconds: the time that the method took to read what is done.
        first_flops: FLOPs counted in a first full step of one lane; None if they were not.
    """

    setup: TrialSetup
    documents: dict[int, TokenizedDocument]
    losses: Callable[[int], np.ndarray]
    seconds: float
    first_flops: float | None


def audit(subject: Subject, frozen: FrozenModel, mode: Mode = "auto", seed: int = 0) -> AuditReport:
    """Every check of a run; whatever the method raises is a finding.

    Args:
        subject: the run.
        frozen: the shared model, taken down before the method ran.
        mode: `auto` reads again what a tenth of the run's time allows; `full` a whole document, and
            looks past every power of two in it; `off` looks at the shared model alone.
        seed: seed for the places and tokens that are drawn.
    """
    started = time.perf_counter()
    findings: list[Finding] = []
    if mode == "off":
        pass
    elif not subject.documents:
        findings.append(Finding("again", "skip", None, "no document was read to its end."))
    else:
        work = _Audit(subject, mode, np.random.default_rng([seed, 1]), 2 * frozen.seconds)
        try:
            findings += work.findings()
        except Exception as error:  # a method is foreign code: whatever it raises is a finding
            status, reason = outcome_of(error)
            sentence = f"a second reading did not end: {reason.rstrip('.')}."
            findings.append(Finding("again", "skip" if status == "oom" else "fail", None, sentence))
    findings.append(frozen.finding())
    seconds = time.perf_counter() - started + frozen.seconds
    share = seconds / subject.seconds if subject.seconds else None
    return AuditReport(tuple(findings), seconds, share)


class _Audit:
    """One audit at work; each reading has an instance of its own."""

    def __init__(self, subject: Subject, mode: Mode, random: np.random.Generator, reserved: float):
        self.subject = subject
        self.mode = mode
        self.random = random
        self.started = time.perf_counter()
        self.budget = SHARE * subject.seconds - reserved
        self.allowed = tolerance_of(subject.setup.model.dtype)

    def findings(self) -> list[Finding]:
        # A process of its own has one thread before there is a method in it.
        threads = 1 if self.subject.setup.host is not None else threading.active_count()
        prepared: list[Method] = []
        set_up = count_flops(lambda: prepared.append(self.subject.setup.build(1)))
        self.budget -= time.perf_counter() - self.started  # the next instance takes as long
        nothing = self._nothing(prepared.pop())
        index, spans = self._choose(nothing.step_seconds)
        document = self.subject.documents[index]
        places = self._places(spans, nothing.step_seconds)
        method = self.subject.setup.build(1)
        before = method.state_bytes(), ask(method, held_bytes)
        counted = frozenset({places[-1].step, places[-1].step // 2})
        found = reread(
            method,
            self.subject.setup.protocol,
            self.subject.setup.prefix_id,
            document,
            places,
            counted,
            self.random,
        )
        after = method.state_bytes(), ask(method, held_bytes)
        shapes = self._shapes(spans, found)
        phrases = [
            declared_costs(method, self.subject.setup.shape),
            flops_over(method, shapes, self.subject.first_flops),
            _set_up_over(method, set_up.flops, self.subject.setup.shape),
            _reset_over(method, self.subject.setup.shape),
            state_over((before[0], after[0]), (before[1], after[1])),
        ]
        if ask(method, _threads) > threads:
            phrases.append("it leaves threads running, whose work nobody counts")
        recorded = self.subject.losses(index)
        return [
            _future(recorded, found, places, self.allowed, document.key),
            _again(recorded, found, self.allowed, document.key),
            nothing.finding,
            cost_finding(phrases, len(shapes)),
        ]

    def _nothing(self, method: Method) -> Nothing:
        chunk = self.subject.setup.protocol.scored_per_window
        longest = max(len(document.token_ids) for document in self.subject.documents.values())
        tokens = max(2, min(2 * chunk, longest))
        setup = self.subject.setup
        return read_nothing(method, setup.protocol, setup.prefix_id, tokens, self.random)

    def _choose(self, step_seconds: float) -> tuple[int, list[Span]]:
        """The document that is read again: as much of it as there is time for, late in it."""
        setup = self.subject.setup
        within = self._affordable(step_seconds)
        spans = {
            index: list(open_stream(index, document, setup.protocol, setup.prefix_id).spans)
            for index, document in self.subject.documents.items()
            if setup.protocol.reset == "document" or index == min(self.subject.documents)
        }
        first = min(spans)

        def worth(index: int) -> tuple[float, int]:
            steps = min(len(spans[index]), within)
            # Nothing can be remembered from before the first document.
            return (steps / 2 if index == first else steps), -len(spans[index])

        best = max(map(worth, spans))
        index = int(self.random.choice([i for i in spans if worth(i) == best]))
        return index, spans[index]

    def _places(self, spans: list[Span], step_seconds: float) -> list[Place]:
        within = self._affordable(step_seconds)
        if self.mode == "full":
            return choose_places(spans, len(spans) - 1, len(spans), self.random)
        looks = max(1, min(within // 6, 8))
        last = min(len(spans), max(LEAST_STEPS, within - looks - 2)) - 1  # two steps are counted
        return choose_places(spans, last, looks, self.random)

    def _affordable(self, step_seconds: float) -> int:
        """The steps of one lane that there is time for."""
        if self.mode == "full":
            return 10**9
        left = self.budget - (time.perf_counter() - self.started)
        return max(LEAST_STEPS, int(left / max(step_seconds, 1e-6)))

    def _shapes(self, spans: list[Span], found: Reread) -> list[tuple[StepShape, float]]:
        protocol = self.subject.setup.protocol
        carried = protocol.context if protocol.context_mode == "cache" else 0
        return [(step_shape(spans[step], carried), flops) for step, flops in found.counted]


def step_shape(span: Span, carried: int) -> StepShape:
    """The shape of the step that reads a span, of which at most `carried` keys came before."""
    return StepShape(
        span.stop - span.start, span.scored, min(carried, span.start), span.stop - span.scored
    )


def _future(
    recorded: np.ndarray, found: Reread, places: Sequence[Place], allowed: Tolerance, key: str
) -> Finding:
    """Whether predictions hold where the tokens behind them are other ones."""
    gaps = []
    for index, losses in found.looked:
        stretch = recorded[index + 1 - len(losses) : index + 1]
        wrong = disagreement(stretch, losses, allowed)
        if wrong:
            sentence = (
                f"with other tokens from token {index} of {key} on, {wrong}: it sees the future."
            )
            return Finding("future", "fail", float(losses[-1] - stretch[-1]), sentence)
        gaps.append(float(losses[-1] - stretch[-1]))
    last = len(found.losses) - 1
    gap = float(found.losses[last] - recorded[last])
    if not abs(gap) <= allowed.token:
        sentence = (
            f"with other tokens from token {last} of {key} on, that token costs "
            f"{found.losses[last]:.4g} nats and {recorded[last]:.4g} in the run: it peeks."
        )
        return Finding("future", "fail", gap, sentence)
    sentence = (
        f"other tokens behind {len(places)} places of {key}, the last at token {last}, change "
        "nothing."
    )
    return Finding("future", "pass", max([abs(gap), *map(abs, gaps)]), sentence)


def _again(recorded: np.ndarray, found: Reread, allowed: Tolerance, key: str) -> Finding:
    """Whether the losses of the run come back in a fresh instance that reads alone."""
    count = len(found.losses)
    wrong = disagreement(recorded[:count], found.losses, allowed)
    if wrong:
        sentence = (
            f"read again alone by a fresh instance, {key} gives other losses ({wrong}): the run's "
            "depend on its neighbours, on earlier documents, on chance or on the future."
        )
        return Finding("again", "fail", None, sentence)
    worst = float(np.abs(found.losses - recorded[:count]).max())
    sentence = (
        f"{count} tokens of {key}, read again alone by a fresh instance, give the same losses."
    )
    return Finding("again", "pass", worst, sentence)


def _threads(method: Method) -> int:
    """The number of threads in the process of a method."""
    return threading.active_count()


def _set_up_over(method: Method, counted: float, shape: StepShape) -> str | None:
    declared = method.offline_flops + (method.flops(shape) or 0.0)
    if counted > 1.5 * declared:
        said = method.offline_flops
        return f"setting up took {counted:.4g} FLOPs, of which offline_flops says {said:.4g}"
    return None


def _reset_over(method: Method, shape: StepShape) -> str | None:
    counted = count_flops(lambda: method.reset(0)).flops
    step = method.flops(shape)
    if step is not None and counted > 0.5 * step:
        return f"a reset takes {counted:.4g} FLOPs, which no figure holds"
    return None
