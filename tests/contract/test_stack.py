"""Stacks by name: what may stand on what, and that the whole is what its parts say."""

import re

import numpy as np
import pytest
import torch
from tiny import random_document, run_method

from tta_bench import Method, UsageError, register
from tta_bench.contract.choice import choose, choose_with
from tta_bench.contract.flat import flat, replaced
from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.spec import split_stack
from tta_bench.contract.stack import PartParams, StackParams, stack_of
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.step import synthetic_steps
from tta_bench.evaluation.plan import choose_methods
from tta_bench.evaluation.suite import load_suite
from tta_bench.model import scores
from tta_bench.model.step_shape import StepShape
from tta_bench.validity.check import quick_checks

CHUNK = 16
SUITES = ("frontier", "frontier-smollm2")
DEEP = "window:context=8+dynamic-eval:lr=0.001+fwl:weights=random+neural-cache:window=40"


def built(model, spec, lanes=1):
    choice = choose(spec)
    return choice.cls(model, choice.params, lanes)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a+b:lr=1+c", ["a", "b:lr=1", "c"]),
        ("a:lr=1e+4+b", ["a:lr=1e+4", "b"]),
        ("a:targets=[x,y+z]+b", ["a:targets=[x,y+z]", "b"]),
        ("fwl:weights=some+file.safetensors", ["fwl:weights=some+file.safetensors"]),
        (" a + b ", ["a", "b"]),
    ],
)
def test_a_plus_before_a_name_separates(spec, parts):
    assert split_stack(spec) == parts


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("neural-cache+window", r"window \(context\) cannot stand on neural-cache \(output\)"),
        ("neural-cache+fwl", r"fwl \(head\) cannot stand on neural-cache \(output\)"),
        ("window+window", "one context method at most"),
        ("dynamic-eval+dynamic-eval", "one parameter method at most"),
        ("none+neural-cache", "none changes nothing"),
        ("neural-cach+window", "did you mean 'neural-cache'"),
        ("+window", "empty part"),
        ("window+", "empty part"),
        ("window:context=8+", "empty part"),
        ("window++neural-cache", "empty part"),
        ("+", "empty part"),
        ("", "a method has an empty name"),
    ],
)
def test_what_cannot_stand_is_a_sentence(spec, sentence):
    with pytest.raises(UsageError, match=sentence):
        choose(spec)


def test_a_plus_is_no_part_of_a_name():
    with pytest.raises(Exception, match="cannot be a method's name"):
        register("a+b")


def test_a_stack_is_made_again_from_plain_data():
    choice = choose(DEEP)
    spec = MethodSpec.of(choice)
    assert spec.choice() == choice
    assert choose_with(spec.name, spec.params) == choice
    assert choice.spec == DEEP
    with pytest.raises(UsageError, match="do not name those of its parts"):
        choose_with("window+neural-cache", {"context": 8})


def test_hyper_parameters_of_parts_are_changed_by_name():
    params = choose("window:context=8+neural-cache").params
    assert flat(params)["0.context"] == 8
    changed = replaced(params, {"1.weight": 0.0})
    assert flat(changed) == flat(params) | {"1.weight": 0.0}


def test_dynamic_evaluation_on_a_window_reads_the_protocols_context(llama):
    """With the context as a part, or from the protocol: the same windows, so the same numbers."""
    documents = [random_document("a", 70, 5), random_document("b", 41, 6)]
    sgd = "dynamic-eval:optimizer=sgd,lr=0.05"
    by_protocol = run_method(
        built(llama, sgd),
        documents,
        Protocol(chunk=CHUNK, context=8, context_mode="recompute"),
    )
    for lanes in (1, 2):
        as_part = run_method(
            built(llama, f"window:context=7+{sgd}", lanes), documents, Protocol(chunk=CHUNK)
        )
        other = run_method(
            built(llama, f"window:context=8+{sgd}", lanes), documents, Protocol(chunk=CHUNK)
        )
        for document in documents:
            np.testing.assert_allclose(other[document.key], by_protocol[document.key], atol=1e-5)
        assert np.abs(as_part["a"] - by_protocol["a"]).max() > 1e-4


def test_a_deep_stack_learns_in_every_part_and_forgets_all(llama):
    method = built(llama, DEEP, 2)
    fresh = {name: value.clone() for name, value in method.state.items()}
    synthetic_steps(method, StepShape(CHUNK, CHUNK, 0))()
    moved = {name.split(".")[0] for name, v in method.state.items() if not v.equal(fresh[name])}
    assert moved == {"0", "1", "2", "3"}
    for lane in (0, 1):
        method.reset(lane)
    assert all(value.equal(fresh[name]) for name, value in method.state.items())


def test_figures_are_those_of_the_parts(llama):
    method = built(llama, "in-place-ttt:weights=random+neural-cache")
    synthetic_steps(method, StepShape(CHUNK, CHUNK, 0))()
    own = method.methods[0].figures(0)
    assert own
    assert method.figures(0) == {f"in-place-ttt: {name}": value for name, value in own.items()}


def test_the_counter_agrees_with_the_sum_of_the_parts(llama):
    """Under a head a part that learns from its losses computes logits that nobody else needs."""
    for spec in (DEEP, "dynamic-eval+fwl:weights=random", "dynamic-eval+neural-cache:window=40"):
        report = check_flops(built(llama, spec), StepShape(CHUNK, CHUNK, 0), spec)
        assert report.agrees, (spec, report.analytic, report.counted)


def stacks_of_suites():
    """The stacks of the frontiers at their first settings, with heads of random weights."""
    specs = [spec for name in SUITES for spec in load_suite(name).methods if "+" in spec]
    found = [choose_methods([spec])[0].spec for spec in specs]
    fit = [re.sub(r"\+fwl(?=\+|$)", "+fwl:weights=random", spec) for spec in found]
    return list(dict.fromkeys(fit))


@pytest.mark.parametrize("spec", stacks_of_suites())
def test_the_counter_agrees_where_rows_come_in_slices(llama, spec, monkeypatch):
    """As they do with a large vocabulary: what learns below has its rows computed once."""
    monkeypatch.setattr(scores, "SLICE_BYTES", {"cpu": 2 * llama.vocab_size * 4 * 5})
    report = check_flops(built(llama, spec, 2), StepShape(CHUNK, CHUNK, 0), spec, steps=2)
    assert report.seen == pytest.approx(report.analytic, rel=1e-3), spec


def test_a_body_that_comes_with_a_head_is_read_by_what_stands_below(llama):
    class OwnBody(Method):
        family = "output"

        def prepare(self):
            name = next(name for name, _ in self.model.net.named_parameters())
            self.model = self.model.with_weights({name: torch.zeros(())})

        def score(self, window):
            return self.below.score(window)

    OwnBody.name = "own-body"
    window = choose("window:context=8")
    cls = stack_of(("window", "own-body"), (window.cls, OwnBody))
    params = choose("window:context=8+neural-cache").params
    own = type(params.parts[1])("own-body", OwnBody.Params())
    method = cls(llama, type(params)((params.parts[0], own)), 1)
    assert method.methods[0].model is method.methods[1].model is method.model is not llama
    twice = stack_of(("own-body", "own-body"), (OwnBody, OwnBody))
    with pytest.raises(UsageError, match="two bodies"):
        twice(llama, type(params)((own, own)), 1)


def test_a_method_that_ignores_what_stands_below_is_told(llama):
    class Alone(Method):
        family = "output"

        def score(self, window):
            return self.model.logits(window)

    Alone.name = "alone"
    window = choose("window:context=8")
    params = choose("window:context=8+neural-cache").params
    own = type(params.parts[1])("alone", Alone.Params())
    cls = stack_of(("window", "alone"), (window.cls, Alone))
    method = cls(llama, type(params)((params.parts[0], own)), 1)
    with pytest.raises(Exception, match="does not read what stands below it"):
        synthetic_steps(method, StepShape(CHUNK, CHUNK, 0))()


def test_probes_judge_a_stack():
    choice = choose("window:context=8+neural-cache:window=64")
    report = quick_checks(choice.cls, choice.params, choice.name)
    assert report.valid, report.failed


def test_a_stack_needs_what_its_parts_need(llama):
    choice = choose("window:context=48+neural-cache")
    needs = choice.cls.needs(choice.params, llama, StepShape(CHUNK, CHUNK, 0))
    assert (needs.positions, needs.hidden) == (48 + CHUNK, True)


class Tidy(Method):
    """Hands on what stands below it, and leaves what it was given alone."""

    family = "head"

    def score(self, window):
        return self.below.score(window)


class Untidy(Tidy):
    """Writes to all that it is given, once it has read it."""

    def score(self, window):
        scores = self.below.score(window)
        window.input_ids.zero_()
        window.scored.zero_()
        return scores

    def adapt(self, window, targets, nll):
        targets.zero_()
        window.input_ids.zero_()


def test_what_a_part_writes_does_not_reach_the_one_above(llama):
    cache = choose("neural-cache:window=40")
    document = random_document("a", 70, 5)

    def losses(below):
        below.name = "below"
        cls = stack_of(("below", "neural-cache"), (below, cache.cls))
        parts = (PartParams("below", below.Params()), PartParams("neural-cache", cache.params))
        return run_method(cls(llama, StackParams(parts), 1), [document], Protocol(chunk=CHUNK))["a"]

    assert losses(Untidy).tolist() == losses(Tidy).tolist()
