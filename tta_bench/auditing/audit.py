"""The audit of one run: what is read again, how much of it, and what is made of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from tta_bench.auditing.agreement import Agreement, agreement_of
from tta_bench.auditing.costs import cost_finding, flops_over, lane_over, state_over
from tta_bench.auditing.finding import AuditReport, Finding
from tta_bench.auditing.leak import leak_finding
from tta_bench.auditing.nothing import Nothing, read_nothing
from tta_bench.auditing.places import Place, choose_places
from tta_bench.auditing.reread import Reread, reread
from tta_bench.auditing.threads import counted_threads
from tta_bench.cost.counter import count_flops
from tta_bench.engine.isolation.method import ask
from tta_bench.engine.outcome import outcome_of
from tta_bench.engine.streams import open_stream, step_shape
from tta_bench.errors import UsageError
from tta_bench.model.step_shape import StepShape
from tta_bench.validity.figures import declared_costs
from tta_bench.validity.holdings import held_bytes

if TYPE_CHECKING:
    from tta_bench.auditing.frozen import FrozenModel
    from tta_bench.contract.method import Method
    from tta_bench.documents import TokenizedDocument
    from tta_bench.engine.protocol import Span
    from tta_bench.engine.trial import TrialSetup

Mode = Literal["auto", "full", "off"]
MODES: tuple[Mode, ...] = get_args(Mode)

SHARE = 0.075
"""Part of a method's own time that `auto` plans to take."""

LEAST_TOKENS = 2304
"""Tokens of each reading that `auto` does not go below, however short the run was: past 2,048, so
that a memory that wraps, or a path that only long documents take, is met."""


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
        lanes: the lanes of the run.
        same_path: whether it had one lane and was not compiled, as the audit's readings are.
        best: losses [tokens] of the best reader of each document by its index; None where nobody
            knows them.
    """

    setup: TrialSetup
    documents: dict[int, TokenizedDocument]
    losses: Callable[[int], np.ndarray]
    seconds: float
    first_flops: float | None
    lanes: int
    same_path: bool
    best: dict[int, np.ndarray] | None = None


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
    if mode != "off" and subject.best:
        losses = [subject.losses(index) for index in subject.best]
        findings.append(leak_finding(losses, list(subject.best.values())))
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
        self.least = math.ceil(LEAST_TOKENS / subject.setup.shape.scored)
        self.rule = agreement_of(subject.setup.model.dtype)

    def findings(self) -> list[Finding]:
        setup = self.subject.setup
        with counted_threads() as threads:
            prepared: list[Method] = []
            set_up = count_flops(lambda: prepared.append(setup.build(1)))
            self.budget -= time.perf_counter() - self.started  # the next instance takes as long
            nothing = self._nothing(prepared.pop())
            index, spans = self._choose(nothing.step_seconds)
            document, recorded = self.subject.documents[index], self.subject.losses(index)
            places = self._places(spans, nothing.step_seconds)
            method = setup.build(1)
            before = method.state_bytes(), ask(method, held_bytes)
            found = self._reread(method, document, places)
            after = method.state_bytes(), ask(method, held_bytes)
            late = step_shape(spans[places[-1].step], setup.protocol), found.last_flops or 0.0
            phrases = [
                declared_costs(method, setup.shape),
                flops_over(method, [*nothing.counted, late], self.subject.first_flops),
                _set_up_over(method, set_up.flops, setup.shape),
                _reset_over(method, setup.shape),
                state_over((before[0], after[0]), (before[1], after[1])),
                self._lanes_over(before[1], before[0]),
            ]
        if threads:
            phrases.append(f"it starts threads ({threads[0]}), whose work nobody counts")
        rule = self.rule
        differs = rule.of_stretch(recorded[: len(found.losses)], found.losses)
        if differs and not self.subject.same_path and rule.noise == 0:
            rule = self._measured_rule(document, places, found)
        return [
            _future(recorded, found, rule, document.key),
            _again(recorded, found, rule, document.key),
            nothing.finding,
            cost_finding(phrases),
        ]

    def _reread(self, method: Method, document: TokenizedDocument, places: list[Place]) -> Reread:
        setup = self.subject.setup
        return reread(method, setup.protocol, setup.prefix_id, document, places, self.random)

    def _measured_rule(
        self, document: TokenizedDocument, places: list[Place], found: Reread
    ) -> Agreement:
        """The rule where adaptation amplifies rounding: measured on a model off by a rounding."""
        setup = self.subject.setup
        name, value = next(iter(setup.model.net.named_parameters()))
        nudge = 4 * torch.finfo(value.dtype).eps
        nudged = replace(setup, model=setup.model.with_weights({name: value * (1 + nudge)}))
        again = self._reread(nudged.build(1), document, places)
        noise = float(np.sqrt(np.mean((again.losses - found.losses) ** 2, dtype=np.float64)))
        return Agreement(self.rule.token, noise)

    def _lanes_over(self, held: int, declared: int) -> str | None:
        """Whether a second lane takes more bytes than it declares."""
        try:
            two = self.subject.setup.build(2)
        except Exception as error:  # a method is foreign code
            if outcome_of(error)[0] != "oom":
                raise
            return None
        return lane_over(declared, ask(two, held_bytes) - held)

    def _nothing(self, method: Method) -> Nothing:
        """Reads a third of what there is time for; the time of a token is estimated from the run's.

        Lanes are counted as if each took the time of all: a single one reads no slower.
        """
        setup, documents = self.subject.setup, self.subject.documents.values()
        chunk, longest = setup.shape.scored, max(len(d.token_ids) for d in documents)
        rate = sum(len(d.token_ids) for d in documents) / max(self.subject.seconds, 1e-9)
        within = int(self.budget / 3 * rate / self.subject.lanes / chunk)
        steps = 32 if self.mode == "full" else max(self.least, within)
        tokens = max(2, min(steps * chunk, longest))
        known = np.concatenate([document.token_ids[:4096] for document in documents])
        return read_nothing(method, setup.protocol, setup.prefix_id, tokens, known, self.random)

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
        looks = max(2, min(within // 4, 10))
        last = min(len(spans), max(self.least, within - looks - 1)) - 1  # one step is counted
        return choose_places(spans, last, looks, self.random)

    def _affordable(self, step_seconds: float) -> int:
        """The steps of one lane that there is time for."""
        if self.mode == "full":
            return 10**9
        left = self.budget - (time.perf_counter() - self.started)
        return max(self.least, int(left / max(step_seconds, 1e-6)))


def _future(recorded: np.ndarray, found: Reread, rule: Agreement, key: str) -> Finding:
    """Whether predictions hold where the tokens behind them are other ones."""
    last = len(found.losses) - 1
    looked = [*found.looked, (last, found.losses[-1:])]
    gaps = [float(losses[-1] - recorded[index]) for index, losses in looked]
    wrong = rule.of_places(gaps)
    if wrong is not None:
        sentence = (
            f"with other tokens behind {len(looked)} places of {key}, the last at token {last}, "
            f"predictions made before them move by {wrong:+.3g} nats: they saw the future."
        )
        return Finding("future", "fail", wrong, sentence)
    for index, losses in found.looked:
        stretch = recorded[index + 1 - len(losses) : index + 1]
        phrase = rule.of_stretch(stretch, losses)
        if phrase:
            sentence = f"with other tokens from token {index} of {key} on, {phrase}: it peeks."
            return Finding("future", "fail", float(losses[-1] - stretch[-1]), sentence)
    sentence = (
        f"other tokens behind {len(looked)} places of {key}, the last at token {last}, change "
        "nothing."
    )
    return Finding("future", "pass", max(map(abs, gaps)), sentence)


def _again(recorded: np.ndarray, found: Reread, rule: Agreement, key: str) -> Finding:
    """Whether the losses of the run come back in a fresh instance that reads alone."""
    count = len(found.losses)
    wrong = rule.of_stretch(recorded[:count], found.losses)
    if wrong:
        sentence = (
            f"read again alone by a fresh instance, {key} gives other losses ({wrong}): the run's "
            "depend on its neighbours, on earlier documents, on chance or on the future."
        )
        return Finding("again", "fail", None, sentence)
    worst = float(np.abs(found.losses - recorded[:count]).max())
    sentence = f"{count} tokens of {key}, read again alone by a fresh instance, cost the same."
    return Finding("again", "pass", worst, sentence)


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
