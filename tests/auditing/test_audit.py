"""Wrong methods of every kind are found on the run itself, honest ones are not."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny import VOCAB, make_method, random_document, tiny_model
from torch import Tensor
from torch.nn import functional as F

from tta_bench import LanguageModel, Logits, Method, Scores, StepShape, Window
from tta_bench.auditing import audit as module
from tta_bench.auditing.audit import Mode, Subject, audit
from tta_bench.auditing.finding import AuditReport
from tta_bench.auditing.frozen import FrozenModel
from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.streams import full_step
from tta_bench.engine.trial import Trial, TrialSetup

CHUNK = 32
PROTOCOL = Protocol(chunk=CHUNK)
DOCUMENTS = [random_document(f"doc{i}", 200, i) for i in range(4)]


def audited(
    cls: type[Method], params: Any = None, mode: str = "full", lanes: int = 1
) -> AuditReport:
    """Runs a method on four documents and audits it."""
    model = tiny_model()
    choice = MethodChoice("planted", cls, cls.Params() if params is None else params)
    setup = TrialSetup(model, choice, PROTOCOL, 256, full_step(PROTOCOL, 200), 0, 200, True)
    frozen = FrozenModel(model, DOCUMENTS[0].token_ids)
    trial = Trial(setup, lanes, compile=False)
    found = {result.index: result for result in trial.engine.run(DOCUMENTS)}
    assert all(result.status == "done" for result in found.values())
    subject = Subject(
        setup,
        {index: result.document for index, result in found.items()},
        lambda index: found[index].nll,
        sum(result.seconds for result in found.values()),
        trial.flops.counted,
        lanes,
        lanes == 1,
    )
    try:
        return audit(subject, frozen, mode)
    finally:
        frozen.process.restore()


HONEST: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("window", {"context": 40}),
    ("neural-cache", {"window": 64}),
    ("dynamic-eval", {"lr": 1e-3}),
    ("dynamic-eval", {"lr": 1e-2, "subset": "lora"}),
    ("dynamic-eval", {"optimizer": "sgd", "interval": 48}),
    ("fwl", {"weights": "random"}),
    ("fwl-untrained", {}),
]


@pytest.mark.parametrize(
    ("mode", "name", "params"),
    # `auto` chooses some of what `full` does, by what a method costs.
    [("full", *one) for one in HONEST] + [("auto", *HONEST[i]) for i in (0, 2, 3, 7)],
)
def test_an_honest_method_is_valid(name: str, params: dict[str, Any], mode: Mode) -> None:
    cls = load(name)
    report = audited(cls, build(cls.Params, params, name), mode, lanes=2)
    assert report.valid is True, report.reason


class Bigrams(Method):
    """Adds to the logits how often a token followed another one in the document; honest."""

    family = "output"
    strength: ClassVar[float] = 0.5

    def init_state(self) -> dict[str, Tensor]:
        return {"counts": torch.zeros(VOCAB, VOCAB)}

    def score(self, window: Window) -> Scores | Tensor:
        logits = self.model.logits(window).full()
        seen = self.state["counts"].log1p()
        rows = seen.gather(1, window.chunk_ids[..., None].expand(-1, -1, VOCAB))
        return logits + self.strength * rows

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        for lane, count in window.scored_lanes():
            pairs = window.chunk_ids[lane, :count], targets[lane, :count]
            self.state["counts"][lane].index_put_(pairs, torch.tensor(1.0), accumulate=True)


def test_a_method_without_a_formula_is_valid() -> None:
    assert audited(Bigrams).valid is True


class LateColumns(Bigrams):
    """From column 20 on it reads the input after its own: the label."""

    def score(self, window: Window) -> Tensor:
        logits = super().score(window).clone()
        following = window.chunk_ids[:, 1:]
        for lane, count in window.scored_lanes():
            for column in range(20, count - 1):
                logits[lane, column, following[lane, column]] += 3.0
        return logits


class LateInTheDocument(Bigrams):
    """The same, but only after 100 tokens, and for every other column."""

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        super().adapt(window, targets, nll)
        self.seen = getattr(self, "seen", 0) + int(window.scored.max())

    def reset(self, lane: int) -> None:
        super().reset(lane)
        self.seen = 0

    def score(self, window: Window) -> Tensor:
        logits = super().score(window).clone()
        if getattr(self, "seen", 0) > 100:
            for lane, count in window.scored_lanes():
                for column in range(count - 1):
                    logits[lane, column, window.chunk_ids[lane, column + 1]] += 2.0
        return logits


MEMORY: dict[int, list[int]] = {}


class RemembersTexts(Bigrams):
    """A module keeps what every document held, by its first token: it helps the second time."""

    def score(self, window: Window) -> Tensor:
        logits = super().score(window).clone()
        for lane, count in window.scored_lanes():
            known = MEMORY.get(int(window.chunk_ids[lane, 1]), [])
            for column, token in enumerate(known[:count]):
                logits[lane, column, token] += 2.0
        return logits

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        for lane, count in window.scored_lanes():
            MEMORY[int(window.chunk_ids[lane, 1])] = targets[lane, :count].tolist()


class ForgetsToForget(Bigrams):
    """Counts of the documents before stay."""

    def reset(self, lane: int) -> None:
        pass


class SharesLanes(Bigrams):
    """All lanes learn from each other."""

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        super().adapt(window, targets, nll)
        self.state["counts"][:] = self.state["counts"].sum(0)


@pytest.mark.parametrize(
    ("cls", "check", "lanes"),
    [
        (LateColumns, "nothing to learn", 1),
        (LateInTheDocument, "future", 1),
        (RemembersTexts, "again", 1),
        (ForgetsToForget, "again", 1),
        (SharesLanes, "again", 4),
    ],
)
def test_losses_that_are_not_true_are_found(cls: type[Method], check: str, lanes: int) -> None:
    report = audited(cls, lanes=lanes)
    assert report.valid is False
    assert check in report.failed


class SeesFrames(Method):
    """Takes the targets from the frame that holds them."""

    def score(self, window: Window) -> Tensor:
        import sys

        logits = self.model.logits(window).full().clone()
        frame = sys._getframe()
        while frame is not None:
            parts = frame.f_locals.get("parts")
            if parts:
                for lane, part in enumerate(parts):
                    if part is not None:
                        stream, span = part
                        first = span.stop - span.scored + 1
                        truth = torch.from_numpy(stream.sequence[first : span.stop + 1])
                        logits[lane, range(span.scored), truth] += 4.0
            frame = frame.f_back
        return logits


def test_targets_that_were_stolen_are_found() -> None:
    report = audited(SeesFrames)
    assert {"future", "nothing to learn"} <= set(report.failed)


class Spoils(Method):
    """Base of methods that leave something changed behind."""

    def score(self, window: Window) -> Logits:
        self.spoil(self.model)
        return self.model.logits(window)

    def spoil(self, model: LanguageModel) -> None:
        raise NotImplementedError


class Rotary(Spoils):
    def spoil(self, model: LanguageModel) -> None:
        model.net.model.rotary_emb.inv_freq.mul_(1.0001)


class Epsilon(Spoils):
    def spoil(self, model: LanguageModel) -> None:
        model.net.model.norm.variance_epsilon = 1e-3


class Hook(Spoils):
    def spoil(self, model: LanguageModel) -> None:
        model.net.model.norm.register_forward_hook(lambda *_: None)


class Dtype(Spoils):
    def spoil(self, model: LanguageModel) -> None:
        torch.set_default_dtype(torch.float64)


class Patched(Spoils):
    def spoil(self, model: LanguageModel) -> None:
        old = F.cross_entropy
        if not hasattr(old, "planted"):
            F.cross_entropy = lambda *args, **kw: old(*args, **kw) * 0.5
            F.cross_entropy.planted = True


@pytest.mark.parametrize("cls", [Rotary, Epsilon, Hook, Dtype, Patched])
def test_what_is_left_changed_is_found(cls: type[Method]) -> None:
    report = audited(cls)
    assert "frozen" in report.failed
    assert report.spoiled


class Costly(Method):
    """Base of methods whose cost is another than they say."""

    def score(self, window: Window) -> Logits:
        return self.model.logits(window)

    def flops(self, shape: StepShape) -> float | None:
        return self.cost.forward(shape)


class SaysNothing(Costly):
    def flops(self, shape: StepShape) -> float:
        return 0.0


class SaysLess(Costly):
    def flops(self, shape: StepShape) -> float:
        return self.cost.forward(shape) / 3


class SaysNegative(Costly):
    def invisible_flops(self, shape: StepShape) -> float:
        return -1e9


class ListsGrow(Costly):
    """Keeps a vector for every token in a list."""

    def prepare(self) -> None:
        self.kept: list[np.ndarray] = []

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        self.kept.append(np.ones((CHUNK, 8192)))


class PreparesAtLength(Costly):
    def prepare(self) -> None:
        self.table = torch.ones(2048, 512) @ torch.ones(512, 2048)


class ResetsAtLength(Costly):
    def reset(self, lane: int) -> None:
        super().reset(lane)
        torch.ones(1024, 512) @ torch.ones(512, 1024)


class Threads(Costly):
    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        threading.Thread(target=time.sleep, args=(2.0,), daemon=True).start()


@pytest.mark.parametrize(
    "cls",
    [
        SaysNothing,
        SaysLess,
        SaysNegative,
        ListsGrow,
        PreparesAtLength,
        ResetsAtLength,
        Threads,
    ],
)
def test_costs_that_cannot_be_right_are_found(cls: type[Method]) -> None:
    assert "costs" in audited(cls).failed


class Raises(Bigrams):
    """Runs once, and never again."""

    runs: ClassVar[int] = 0

    def prepare(self) -> None:
        type(self).runs += 1
        if self.runs > 2:
            raise RuntimeError("used up")


def test_a_method_that_cannot_be_read_again_is_not_valid() -> None:
    report = audited(Raises)
    assert report.valid is False
    assert "used up" in (report.reason or "")


@dataclass
class _Slow:
    seconds: float = 0.02


class SleepyHonest(Bigrams):
    """Its time is spent in sleep, so that it can be planned with."""

    Params = _Slow

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        super().adapt(window, targets, nll)
        time.sleep(self.params.seconds)


def test_auto_reads_less_than_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_TOKENS", 64)
    fast, slow = audited(SleepyHonest, _Slow(), "auto"), audited(SleepyHonest, _Slow(), "full")
    assert fast.valid is slow.valid is True
    assert fast.seconds < slow.seconds


def test_the_report_is_json() -> None:
    report = audited(LateColumns)
    stored = report.to_dict()
    assert stored["valid"] is False
    assert {finding["check"] for finding in stored["findings"]} == {
        "future",
        "again",
        "nothing to learn",
        "costs",
        "frozen",
    }
    assert make_method(tiny_model(), "none").state_bytes() == 0
