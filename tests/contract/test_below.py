"""Methods stack: an output method mixes into what stands below it, and costs add up."""

import math

import numpy as np
import pytest
import torch
from tiny import PREFIX, make_method, random_document, run_method

from tta_bench import Method, MethodError, StepShape, Window
from tta_bench.contract.choice import choose
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.cost.model_flops import ModelCost
from tta_bench.engine.protocol import Protocol

CHUNK, LR, WINDOW, THETA, WEIGHT = 16, 0.05, 40, 7.0, 0.3
SHAPE = StepShape(CHUNK, CHUNK, 0)


def stack(model, spec, lanes=1):
    choice = choose(spec)
    return choice.cls(model, choice.params, lanes)


def literal(model, ids):
    """(1 - l) p_dynamic-eval + l p_cache, with the weights of each chunk written into the model."""
    dynamic = make_method(model, "dynamic-eval", optimizer="sgd", lr=LR)
    names = list(dynamic.start)
    weights = {name: model.parameter(name).detach().clone() for name in names}
    sequence, remembered, losses = torch.tensor([PREFIX, *ids]), [], []
    for first in range(0, len(ids), CHUNK):
        stop = min(first + CHUNK, len(ids))
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        count = torch.tensor([stop - first])
        window = Window(sequence[None, first:stop], count, count, stop - first)
        scores = model.logits(window, leaves)
        logits = scores.full()[0]
        own = logits.detach().softmax(-1)
        targets = sequence[first + 1 : stop + 1]
        loss = torch.nn.functional.cross_entropy(logits, targets)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        hidden = torch.nn.functional.normalize(scores.hidden[0].detach(), dim=-1)
        for i, target in enumerate(targets.tolist()):
            p = float(own[i, target])
            recent = remembered[-WINDOW:]
            if recent:
                shares = [math.exp(THETA * float(hidden[i] @ key)) for key, _ in recent]
                match = sum(s for s, (_, y) in zip(shares, recent, strict=True) if y == target)
                p = (1 - WEIGHT) * p + WEIGHT * match / sum(shares)
            losses.append(-math.log(p))
            remembered.append((hidden[i], target))
        for name, gradient in zip(names, gradients, strict=True):
            weights[name] -= LR * gradient
    return np.array(losses)


CACHE = f"neural-cache:window={WINDOW},theta={THETA},weight={WEIGHT}"
SGD = f"dynamic-eval:optimizer=sgd,lr={LR}"


def test_a_cache_on_dynamic_evaluation_is_the_literal_mixture(llama):
    documents = [random_document("a", 70, 5), random_document("b", 40, 6)]
    for lanes in (1, 2):
        both = stack(llama, f"{SGD}+{CACHE}", lanes)
        found = run_method(both, documents, Protocol(chunk=CHUNK))
        for document in documents:
            expected = literal(llama, document.token_ids.tolist())
            np.testing.assert_allclose(found[document.key], expected, atol=1e-4)
    alone = run_method(make_method(llama, "neural-cache", window=WINDOW, theta=THETA), documents)
    assert np.abs(alone["a"] - found["a"]).max() > 0.01


def test_a_cache_reads_the_states_that_a_head_made(llama):
    """A head's scores carry its own outputs: the keys are those, not the body's."""
    head = make_method(llama, "fwl", weights="random")
    cache = load("neural-cache")(llama, build(load("neural-cache").Params, {}, ""), 1, head)
    ids = torch.randint(3, 90, (1, CHUNK))
    count = torch.tensor([CHUNK])
    window = Window(ids, count, count, CHUNK)
    with torch.no_grad():
        own = cache.score(window)
        of_head = head.score(window).hidden
    assert torch.equal(own.hidden, of_head)
    assert not torch.allclose(of_head, llama.hidden(window))


def test_costs_add_up(llama):
    lower, alone = stack(llama, SGD), stack(llama, CACHE)
    both = stack(llama, f"{SGD}+{CACHE}")
    forward = ModelCost(llama).forward(SHAPE)
    assert both.flops(SHAPE) == lower.flops(SHAPE) + alone.flops(SHAPE) - forward
    assert both.state_bytes() == lower.state_bytes() + alone.state_bytes()
    lower.flops = lambda shape: None
    params = build(load("neural-cache").Params, {}, "neural-cache")
    assert load("neural-cache")(llama, params, 1, lower).flops(SHAPE) is None


def test_a_method_below_without_hidden_states_is_refused(llama):
    class Plain(Method):
        def score(self, window):
            return self.model.logits(window).full()

    params = build(load("neural-cache").Params, {}, "neural-cache")
    cache = load("neural-cache")(llama, params, 1, Plain(llama, None, 1))
    count = torch.tensor([4])
    with pytest.raises(MethodError, match="needs hidden states"):
        cache.score(Window(torch.zeros(1, 4, dtype=torch.int64), count, count, 4))


def test_the_cost_follows_the_model(llama, monkeypatch):
    """A method may replace its model; what was found out about one is found out once."""
    method = make_method(llama, "none")
    assert method.flops(SHAPE) == ModelCost(llama).forward(SHAPE) > 0
    method.model = llama.with_weights({})
    assert method.cost.model is method.model
    assert method.flops(SHAPE) == ModelCost(llama).forward(SHAPE)
    monkeypatch.setattr(ModelCost, "_sorted_out", None)  # another trace would fail
    assert method.flops(SHAPE) > 0
