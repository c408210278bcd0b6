"""A probe is read by the state after each document, and the stream goes on as if it were not."""

import numpy as np
import pytest
import torch
from fast_heads import LEARNED
from slow import slow
from tiny import PREFIX, make_method, random_document, tiny_model

from tta_bench import Method
from tta_bench.contract.choice import choose
from tta_bench.engine.loop import Engine
from tta_bench.engine.memento import Memento
from tta_bench.engine.probe import Probe
from tta_bench.engine.protocol import Protocol
from tta_bench.validity.tensors import reachable

NEVER = Protocol(chunk=16, reset="never")
CARRIED = Protocol(chunk=16, context=24, context_mode="cache", reset="never")
PROBE = random_document("probe", 40, seed=9)
EVERY = [
    *("none", "window:context=6", "streaming-llm:sinks=2,recent=6", "neural-cache:window=10"),
    *("knn-lm:window=10,k=4", "ngram:window=10,order=3", "regression", "slot", "tint"),
    *("dynamic-eval", "dynamic-eval:optimizer=adam,subset=lora", "fwl-untrained"),
    *(f"{name}:weights=random" for name in ("fwl", *LEARNED)),
    "streaming-llm:sinks=2,recent=6+dynamic-eval+ngram+neural-cache",
]

QUICK = ("none", "window:context=6", "neural-cache:window=10", "dynamic-eval", "fwl:weights=random")
"""What is read where time is short; each family has one."""


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def documents():
    return [random_document(f"doc{n}", 37 + 20 * n, seed=n) for n in range(3)]


def read(method, documents, protocol=NEVER, probe=None):
    engine = Engine(method, protocol, PREFIX, debug=True, probe=probe)
    return list(engine.run(documents))


def made(model, spec):
    choice = choose(spec)
    torch.manual_seed(0)
    return choice.cls(model, choice.params, 1)


@pytest.mark.parametrize(
    "spec", [spec if spec in QUICK else pytest.param(spec, marks=slow) for spec in EVERY]
)
def test_the_stream_is_bit_for_bit_what_it_is_without_a_probe(model, documents, spec):
    plain = made(model, spec)
    apart = read(plain, documents)
    probe = Probe(PROBE, NEVER, PREFIX)
    method = made(model, spec)
    probed = read(method, documents, probe=probe)
    for one, other in zip(apart, probed, strict=True):
        np.testing.assert_array_equal(one.nll, other.nll)
    left = dict(reachable(plain, (model.net,)))
    for path, tensor in reachable(method, (model.net,)):
        assert torch.equal(tensor, left[path]), path
    # What the state after the last document reads is what that of an undisturbed method reads.
    last = Engine(plain, NEVER, PREFIX, debug=True)
    again = Probe(PROBE, NEVER, PREFIX).read(last.step, last.past, last._window)
    assert probed[-1].probe_nll == again
    assert (probe.tokens, probe.readings) == (40, 4)


def test_a_probe_is_read_with_what_was_learned(model, documents):
    probes = {name: Probe(PROBE, NEVER, PREFIX) for name in ("none", "dynamic-eval")}
    results = {
        name: read(make_method(model, name), documents, probe=probe)
        for name, probe in probes.items()
    }
    assert {result.probe_nll for result in results["none"]} == {probes["none"].fresh}
    assert probes["dynamic-eval"].fresh == probes["none"].fresh
    after = [result.probe_nll for result in results["dynamic-eval"]]
    assert len({probes["dynamic-eval"].fresh, *after}) == 4


def test_a_probe_leaves_carried_keys_alone(model, documents):
    apart = read(make_method(model, "none"), documents, CARRIED)
    probe = Probe(PROBE, CARRIED, PREFIX)
    probed = read(make_method(model, "none"), documents, CARRIED, probe)
    for one, other in zip(apart, probed, strict=True):
        np.testing.assert_array_equal(one.nll, other.nll)
    assert probed[0].probe_nll != probe.fresh  # it is read behind the keys of the stream


class Everywhere(Method):
    """Keeps what it learned in every kind of place, and writes to all of them while it scores."""

    def prepare(self):
        counts = [0]

        def count():
            counts[0] += 1
            return counts[0]

        self.count = count
        self.numbers = np.zeros(3)
        self.table = {"seen": torch.zeros(2), "nested": [torch.zeros(1), {1}]}
        self.dice = torch.Generator().manual_seed(0)
        self.view = torch.zeros(4)[1:3]

    def score(self, window):
        number = self.count()
        self.numbers += number
        self.table["seen"] += number
        self.table["nested"][0].add_(1)
        self.table["nested"][1].add(number)
        self.table[f"new{number}"] = number
        self.view.data = torch.full((2,), float(number))
        self.late = number
        noise = torch.rand((), generator=self.dice) + torch.rand(()) + self.numbers[0]
        return self.model.logits(window).chunk_logits() + 0 * noise

    def told(self):
        return repr((self.numbers, self.table, self.view, self.dice.get_state().sum()))


def test_everything_that_can_be_reached_is_put_back(model):
    method = Everywhere(model, None, 1)
    before, random = method.told(), torch.get_rng_state()
    memento = Memento(method, None)
    method.count(), method.numbers.fill(7), method.table.update(x=1)
    method.table["nested"][1].add(5), method.table["seen"].fill_(3)
    method.view.data = torch.ones(5)
    method.late = torch.rand(1, generator=method.dice) + torch.rand(1)
    assert method.told() != before
    memento.restore()
    assert method.told() == before
    assert not hasattr(method, "late")
    assert method.count() == 1
    assert torch.equal(torch.get_rng_state(), random)
