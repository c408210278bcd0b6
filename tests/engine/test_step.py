"""One step: what a method may change, when targets are read, and that the probes run this code."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import ClassVar

import cheats
import numpy as np
import pytest
import torch
from tiny import PREFIX, VOCAB, make_method, run_method
from torch import Tensor

from tta_bench import Method, Scores, StepShape, Window
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.step import Step
from tta_bench.errors import MethodError
from tta_bench.model import scores as scores_module
from tta_bench.model.cache import LaneCache
from tta_bench.model.scores import DenseLogits, Scored, token_nll
from tta_bench.validity.check import run
from tta_bench.validity.probes import FULL
from tta_bench.validity.subject import Subject

CACHE = Protocol(chunk=16, context=24, context_mode="cache")
PLAIN = Protocol(chunk=16)


# A method has copies


class Writing(Method):
    """The frozen model, which overwrites one of the tensors that it was given."""

    written: str
    """`score` or `adapt`, and the tensor."""

    def score(self, window: Window) -> Scores:
        logits = self.model.logits(window).full()
        self.overwrite("score", window)
        return DenseLogits(logits)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        self.overwrite("adapt", window, targets=targets, nll=nll)

    def overwrite(self, where: str, window: Window, **more: Tensor) -> None:
        past = window.past
        given = {
            "ids": window.input_ids,
            "lengths": window.lengths,
            "scored": window.scored,
            "mask": window.mask,
            **({} if past is None else {"valid": past.valid, "positions": past.positions}),
            **more,
        }
        when, name = self.written.split()
        if when == where:
            given[name].zero_()


IN_BOTH = ("ids", "lengths", "scored", "mask", "valid", "positions")
WRITTEN = [f"{when} {name}" for when in ("score", "adapt") for name in IN_BOTH]


@pytest.mark.parametrize("written", [*WRITTEN, "adapt targets", "adapt nll"])
def test_what_a_method_overwrites_is_its_own(llama, documents, written):
    expected = run_method(make_method(llama, "none", lanes=2), documents, CACHE)
    method = Writing(llama, None, 2)
    method.written = written
    found = run_method(method, documents, CACHE)
    for key, losses in expected.items():
        np.testing.assert_array_equal(found[key], losses)


class Descending(Method):
    """Differentiates its losses after it has overwritten all else that it was given."""

    gradients = True

    def init_state(self):
        return {"bias": torch.zeros(self.model.vocab_size)}

    def score(self, window):
        self.bias = self.state["bias"].clone().requires_grad_()
        return DenseLogits(self.model.logits(window).full() + self.bias[:, None])

    def adapt(self, window, targets, nll):
        targets.zero_()
        window.mask.zero_()
        (slope,) = torch.autograd.grad(nll.sum(), self.bias)
        nll.detach().zero_()
        self.state["bias"] -= 0.1 * slope


class Careful(Descending):
    """Takes the same steps and overwrites nothing."""

    def adapt(self, window, targets, nll):
        (slope,) = torch.autograd.grad(nll.sum(), self.bias)
        self.state["bias"] -= 0.1 * slope


def test_a_gradient_is_that_of_the_engines_own_targets(llama, documents):
    expected = run_method(Careful(llama, None, 2), documents)
    found = run_method(Descending(llama, None, 2), documents)
    for key, losses in expected.items():
        np.testing.assert_array_equal(found[key], losses)


def test_carried_keys_are_shared_and_not_copied(llama):
    past = LaneCache(1, 24, torch.device("cpu"))
    ids = torch.arange(8)[None] + 3
    whole = torch.tensor([8])
    window = Window(ids, whole, whole, 8, past)
    step = Step(make_method(llama, "none"))
    step(window, lambda: ids)
    assert past.valid.tolist() == past.positions.tolist() == [8]
    view = window.copy().past
    assert view is not None
    assert view.length == past.length == 8
    held = past.to_transformers().layers[0].keys
    assert torch.equal(view.to_transformers().layers[0].keys, held)
    with pytest.raises(MethodError, match="must not commit"):
        view.commit(whole)


# When targets are read


def stack_of(frame) -> list[object]:
    """Everything that the frame and its callers have in their variables."""
    found: list[object] = []
    while frame is not None:
        found += frame.f_locals.values()
        frame = frame.f_back
    return found


class Watching(Method):
    """Notes whether its rows were asked for while a tensor of targets was on the stack."""

    def prepare(self):
        self.seen: list[bool] = []

    def score(self, window):
        method = self

        class Watched(DenseLogits):
            def rows(self, start, stop):
                method.look()
                return super().rows(start, stop)

        self.look()
        return Watched(self.model.logits(window).full())

    def look(self):
        found = stack_of(sys._getframe(1))
        self.seen.append(any(isinstance(x, Tensor) and torch.equal(x, TARGETS) for x in found))


TARGETS = torch.arange(40, 48)[None]
WHOLE = torch.tensor([8])


class Early(Step):
    """Reads the targets before the method scores, against the rule."""

    def __call__(self, window: Window, read_targets: Callable[[], Tensor]) -> Scored:
        targets = read_targets()
        return super().__call__(window, lambda: targets)


def take_watched_step(llama, kind: type[Step] = Step) -> tuple[list[bool], list[int]]:
    method = Watching(llama, None, 1)
    read = []

    def read_targets() -> Tensor:
        read.append(len(method.seen))
        return TARGETS.clone()

    kind(method)(Window(torch.arange(8)[None] + 3, WHOLE, WHOLE, 8), read_targets)
    return method.seen, read


def test_scores_are_complete_before_the_targets_are_read(llama):
    assert take_watched_step(llama) == ([False, False], [2])
    assert take_watched_step(llama, Early) == ([True, True], [0])


def test_of_several_slices_the_first_is_complete(llama, monkeypatch):
    monkeypatch.setattr(scores_module, "SLICE_BYTES", {"cpu": VOCAB * 4 * 3})
    seen, read = take_watched_step(llama)
    assert seen[:2] == [False, False]
    assert len(seen) == 4  # slices of three columns
    assert read == [2]


# Everyone takes this step


class Unable(Method):
    """Asks for gradients that its scores have not."""

    gradients = True

    def score(self, window):
        return DenseLogits(self.model.logits(window).full().detach())


def test_scores_without_gradients_are_refused_by_engine_flop_check_and_probes(llama, documents):
    (result,) = Engine(Unable(llama, None, 1), PLAIN, PREFIX).run(documents[:1])
    words = "the method asks for gradients but its scores depend on none"
    assert (result.status, words in result.reason) == ("error", True)
    report = check_flops(Unable(llama, None, 1), StepShape(8, 8, 0), "unable")
    assert words in report.uncounted_because
    found = run(Subject.of("unable", Unable, Unable.Params()), FULL[:1]).results[0]
    assert (found.status, words in found.sentence) == ("fail", True)


class Precise(Method):
    """Notes how exact float32 products are."""

    found: ClassVar[set[str]] = set()

    def score(self, window):
        self.found.add(torch.get_float32_matmul_precision())
        return self.model.logits(window)


def test_products_are_as_exact_everywhere(llama, documents):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        run_method(Precise(llama, None, 1), documents[:1])
        check_flops(Precise(llama, None, 1), StepShape(8, 8, 0), "precise")
        run(Subject.of("precise", Precise, Precise.Params()), FULL[:1])
    finally:
        torch.set_float32_matmul_precision(before)
    assert Precise.found == {"highest"}


# A rule that is broken in the step is seen by the probes

take = Step.__call__


def adapts_first(self: Step, window: Window, read_targets: Callable[[], Tensor]) -> Tensor:
    targets = read_targets()
    with torch.set_grad_enabled(self.method.gradients):
        self.method.adapt(window.copy(), targets.clone(), torch.zeros(targets.shape))
    return take(self, window, lambda: targets)


def leaks_targets(self: Step, window: Window, read_targets: Callable[[], Tensor]) -> Tensor:
    targets = read_targets()
    ids = window.input_ids.clone()
    ids[:, 0] = targets[:, 0]
    return take(self, dataclasses.replace(window, input_ids=ids), lambda: targets)


def forgets_to_reset(self: Engine, lane: int) -> None:
    return None


def shares_losses(self: Step, window: Window, targets: Tensor, nll: Tensor) -> None:
    mixed = targets.roll(1, dims=0) if len(targets) > 1 else targets
    self.method.adapt(window, mixed, nll)


@pytest.mark.parametrize(
    ("owner", "name", "broken", "probes"),
    [
        (Step, "__call__", adapts_first, {"causality", "targets"}),
        (Step, "__call__", leaks_targets, {"causality", "targets"}),
        (Step, "adapt", shares_losses, {"neighbours"}),
        (Engine, "reset", forgets_to_reset, {"reset"}),
    ],
)
def test_a_rule_broken_in_the_engine_fails_the_check(monkeypatch, owner, name, broken, probes):
    subject = Subject.of("honest", cheats.Honest, cheats.Honest.Params())
    wanted = [probe for probe in FULL if probe.name in {"runs", "deterministic", *probes}]
    assert run(subject, wanted).valid is True
    monkeypatch.setattr(owner, name, broken)
    assert set(run(subject, wanted).failed) == probes


# Log-probabilities that a method has normalised itself


class Spoilt(Method):
    """Normalised log-probabilities, into whose second chunk a value is written."""

    value: float
    lane, column, token = 0, 3, 2  # which is in no document
    steps = 0

    def score(self, window):
        rows = self.model.logits(window).full().log_softmax(-1)
        self.steps += 1
        if self.steps == 2:
            rows[self.lane, self.column, self.token] = self.value
        scores = DenseLogits(rows)
        scores.normalised = True
        return scores


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_where_nothing_is_scored_is_a_divergence(
    llama, documents, value
):
    method = Spoilt(llama, None, 2)
    method.value = value
    found = {r.document.key: r for r in Engine(method, PLAIN, PREFIX).run(documents[:2])}
    assert Spoilt.token not in documents[0].token_ids
    assert found["doc0"].status == "diverged"
    assert "the loss of token 19 is nan: its distribution holds a value" in found["doc0"].reason
    assert found["doc1"].status == "done"  # lanes are strangers


def test_a_token_may_have_probability_zero():
    logits = torch.randn(1, 4, VOCAB)
    logits[..., 5] = -torch.inf
    scores = DenseLogits(logits.log_softmax(-1))
    scores.normalised = True
    mask = torch.ones(1, 4, dtype=torch.bool)
    targets = torch.tensor([[1, 2, 5, 3]])
    nll = token_nll(scores, lambda: targets, mask)
    expected = -logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    assert torch.equal(nll, expected)
    assert nll.isinf().tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_row_without_a_sum_has_no_loss_and_padding_does_not_count(value):
    rows = torch.randn(2, 3, VOCAB).log_softmax(-1)
    rows[0, 1] = value
    rows[1, 2] = np.nan
    scores = DenseLogits(rows)
    scores.normalised = True
    mask = torch.tensor([[True, True, True], [True, True, False]])
    nll = token_nll(scores, lambda: torch.zeros(2, 3, dtype=torch.int64), mask)
    assert nll.isnan().tolist() == [[False, True, False], [False, False, False]]
