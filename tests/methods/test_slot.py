"""SLOT against an autograd loop with `torch.optim.AdamW`, and as a head."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES, PREFIX, make_method, random_document, run_method, tiny_model

from tta_bench import StepShape
from tta_bench.contract.choice import choose
from tta_bench.engine.flop_check import check_flops
from tta_bench.errors import UsageError

CHUNK = 16


def reference_losses(model, ids, lr, steps):
    """One document, chunk by chunk: a vector, and an optimiser of torch.optim for each chunk."""
    sequence = torch.tensor([PREFIX, *ids])
    delta = torch.zeros(model.hidden_size, requires_grad=True)
    losses = []
    for first in range(0, len(ids), CHUNK):
        stop = min(first + CHUNK, len(ids))
        with torch.no_grad():
            hidden = model.body(sequence[None, first:stop])[0]
        targets = sequence[first + 1 : stop + 1]

        def nll(hidden=hidden, targets=targets):
            logits = model.unembed(hidden + delta)
            return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

        losses.append(nll().detach())
        optimizer = torch.optim.AdamW([delta], lr=lr, weight_decay=1e-8, eps=1e-5)
        for _ in range(steps):
            optimizer.zero_grad()
            nll().mean().backward()
            optimizer.step()
    return torch.cat(losses).numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [1, 4])
def test_it_equals_an_autograd_loop(family, steps):
    model = tiny_model(family)
    document = random_document("a", 90, 1)
    found = run_method(make_method(model, "slot", lr=0.05, steps=steps), [document])["a"]
    expected = reference_losses(model, document.token_ids, 0.05, steps)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_lanes_learn_as_if_alone(llama):
    documents = [random_document(f"d{i}", length, i) for i, length in enumerate((70, 48, 33, 5))]
    found = run_method(make_method(llama, "slot", 3), documents)
    for document in documents:
        expected = run_method(make_method(llama, "slot"), [document])[document.key]
        np.testing.assert_allclose(found[document.key], expected, atol=1e-4)


def test_a_step_of_zero_is_none(llama):
    document = random_document("a", 70, 1)
    expected = run_method(make_method(llama, "none"), [document])["a"]
    assert np.array_equal(run_method(make_method(llama, "slot", lr=0), [document])["a"], expected)


@pytest.mark.parametrize("spec", ["slot", "slot:lr=0", "slot:steps=2", "window:context=8+slot"])
@pytest.mark.parametrize("shape", [StepShape(16, 16, 0), StepShape(40, 24, 0)])
def test_its_formula_is_what_is_counted(llama, spec, shape):
    chosen = choose(spec)
    method = chosen.cls(llama, chosen.params, 2)
    report = check_flops(method, shape, spec)
    assert report.counted == pytest.approx(report.analytic, rel=0.02)


def test_its_state_is_the_vector_and_float32_under_bfloat16():
    model = tiny_model("llama", torch.bfloat16)
    method = make_method(model, "slot", lr=1e-3)
    run_method(method, [random_document("a", 60, 1)])
    assert method.state["delta"].dtype == torch.float32
    assert method.state_bytes() == 4 * model.hidden_size


def test_it_stands_on_adapted_weights_and_under_a_cache(llama):
    document = random_document("a", 120, 2)
    losses = {}
    for spec in ("dynamic-eval:lr=3e-3", "dynamic-eval:lr=3e-3+slot", "slot", "slot+neural-cache"):
        chosen = choose(spec)
        method = chosen.cls(llama, chosen.params, 1)
        losses[spec] = run_method(method, [document])["a"][CHUNK:].mean()
    assert losses["dynamic-eval:lr=3e-3+slot"] != losses["dynamic-eval:lr=3e-3"]
    assert losses["slot+neural-cache"] < losses["slot"]


@pytest.mark.parametrize(("params", "words"), [({"lr": -1}, "lr must"), ({"steps": 0}, "steps")])
def test_wrong_parameters_get_one_sentence(llama, params, words):
    with pytest.raises(UsageError, match=words):
        make_method(llama, "slot", **params)
