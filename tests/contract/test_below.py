"""Methods stack: an output method mixes into what stands below it, and costs add up."""

import math

import numpy as np
import pytest
import torch
from tiny import PREFIX, make_method, random_document, run_method

from tta_bench import Method, MethodError, StepShape, Window
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.cost.model_flops import ModelCost
from tta_bench.engine.protocol import Protocol
from tta_bench.model.scores import as_scores, token_nll

CHUNK, LR, WINDOW, THETA, WEIGHT = 16, 0.05, 40, 7.0, 0.3
SHAPE = StepShape(CHUNK, CHUNK, 0)


class Stack(Method):
    """`upper` on `lower`; each learns from the losses of its own scores."""

    gradients = True

    def __init__(self, model, lower, upper, lanes=1):
        lower_cls, upper_cls = load(lower[0]), load(upper[0])
        stack = self

        class Lower(lower_cls):
            def score(self, window):
                stack.below_scores = super().score(window)
                return stack.below_scores

        self.lower = Lower(model, build(lower_cls.Params, lower[1], lower[0]), lanes)
        params = build(upper_cls.Params, upper[1], upper[0])
        self.upper = upper_cls(self.lower.model, params, lanes, self.lower)
        super().__init__(model, None, lanes)

    def score(self, window):
        return self.upper.score(window)

    def adapt(self, window, targets, nll):
        shape = (window.lanes, window.chunk_size, self.model.vocab_size)
        below = as_scores(self.below_scores, shape)
        self.lower.adapt(window, targets, token_nll(below, lambda: targets, window.mask, True))
        self.upper.adapt(window, targets, nll.detach())

    def reset(self, lane):
        self.lower.reset(lane)
        self.upper.reset(lane)

    def flops(self, shape):
        return self.upper.flops(shape)


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


def cache_on(model, lower, lanes=1):
    params = {"window": WINDOW, "theta": THETA, "weight": WEIGHT}
    return Stack(model, lower, ("neural-cache", params), lanes)


def test_a_cache_on_dynamic_evaluation_is_the_literal_mixture(llama):
    documents = [random_document("a", 70, 5), random_document("b", 40, 6)]
    for lanes in (1, 2):
        stack = cache_on(llama, ("dynamic-eval", {"optimizer": "sgd", "lr": LR}), lanes)
        found = run_method(stack, documents, Protocol(chunk=CHUNK))
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
    lower = make_method(llama, "dynamic-eval")
    stack = cache_on(llama, ("dynamic-eval", {}))
    alone = make_method(llama, "neural-cache", window=WINDOW)
    forward = ModelCost(llama).forward(SHAPE)
    assert stack.flops(SHAPE) == lower.flops(SHAPE) + alone.flops(SHAPE) - forward
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
