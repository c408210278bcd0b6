"""A method on so many lanes: what a trial measures, and how it is halved."""

from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch
from tiny import PREFIX, tiny_model

from tta_bench import Method, StepShape
from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.registry import load
from tta_bench.cost.model_flops import ModelCost
from tta_bench.engine.flop_check import check_flops, flops_per_token
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.trial import Trial, TrialSetup, halved_until_it_fits

SHAPE = StepShape(16, 16, 0)


class Held:
    """Something that takes memory."""


def test_lanes_are_halved_with_nothing_of_the_attempt_left():
    tried, alive = [], []

    def attempt(lanes: int) -> str:
        held = Held()
        alive.append(weakref.ref(held))
        tried.append(lanes)
        if lanes > 2:
            raise MemoryError
        return f"read on {lanes}"

    def give_up(lanes: int, fewer: int) -> None:
        assert alive[-1]() is None
        tried.append((lanes, fewer))

    assert halved_until_it_fits(11, attempt, give_up) == "read on 2"
    assert tried == [11, (11, 5), 5, (5, 2), 2]


@pytest.mark.parametrize(
    ("lanes", "error"), [(1, torch.OutOfMemoryError("none left")), (4, ValueError("a mistake"))]
)
def test_what_fewer_lanes_do_not_mend_is_raised(lanes, error):
    def attempt(now: int) -> None:
        assert now == lanes
        raise error

    with pytest.raises(type(error), match=str(error)):
        halved_until_it_fits(lanes, attempt, lambda *_: None)


class Drawn(Method):
    """Has a state that the seed decides."""

    def init_state(self):
        return {"drawn": torch.rand(3)}

    def score(self, window):
        return self.model.logits(window)


def make_setup(cls: type[Method], name: str, **changes) -> TrialSetup:
    choice = MethodChoice(name, cls, cls.Params())
    return TrialSetup(tiny_model(), choice, Protocol(chunk=16), PREFIX, SHAPE, **changes)


def test_a_method_is_built_under_the_seed_checked_and_warm():
    one, two, other = (Trial(make_setup(Drawn, "drawn", seed=n), 2, False) for n in (1, 1, 2))
    assert torch.equal(one.method.state["drawn"], two.method.state["drawn"])
    assert not torch.equal(one.method.state["drawn"], other.method.state["drawn"])
    assert one.method.lanes == 2
    assert one.flops.counted == pytest.approx(one.method.cost.forward(SHAPE), rel=0.02)
    assert one.warm_up_seconds > 0
    assert one.engine.timer.seconds == []  # the warm-up is no step of a document
    assert one.engine.reset_seconds == 0


def test_flops_are_counted_before_anything_is_compiled():
    setup = make_setup(load("none"), "none", seed=0)
    setup.model.compiled = True  # as an earlier method may leave it
    assert Trial(setup, 1, compile=False).flops.agrees
    assert not setup.model.compiled


STEPS = Counter({SHAPE: 3, StepShape(16, 4, 0, 48): 1})
TOKENS = 3 * 16 + 4


def test_flops_per_token_follow_the_formula_over_all_steps(llama):
    cls = load("none")
    method = cls(llama, cls.Params(), 1)
    report = check_flops(method, SHAPE, "none")
    expected = (
        sum(ModelCost(llama).forward(shape) * times for shape, times in STEPS.items()) / TOKENS
    )
    assert flops_per_token(method, report, STEPS) == expected
    assert flops_per_token(method, report, Counter()) is None


def test_without_a_formula_what_was_counted_beyond_the_model_is_added(llama):
    class Twice(Method):
        def score(self, window):
            self.model.logits(window).full()
            return self.model.logits(window)

    method = Twice(llama, None, 1)
    report = check_flops(method, SHAPE, "twice")
    model = sum(ModelCost(llama).forward(shape) * times for shape, times in STEPS.items()) / TOKENS
    beyond = ModelCost(llama).forward(SHAPE) / 16
    assert flops_per_token(method, report, STEPS) == pytest.approx(model + beyond, rel=0.02)
