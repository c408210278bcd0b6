"""Test-time regression: the authors' numbers, brute force, and the stream."""

import itertools

import numpy as np
import pytest
import torch
from golden import cases, checked, golden, leaves
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PREFIX, make_method, random_document, run_method
from torch.nn import functional as F

from tta_bench import UsageError
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.model.step_shape import StepShape
from tta_bench_methods.head.regression.exact import (
    corrections_in_chunk,
    reads_one_by_one,
    solved,
)

CHUNK = 16


@pytest.mark.parametrize("path", golden("mesa"))
def test_exact_solver_agrees_with_the_authors(path):
    for arrays in cases(path).values():
        names = ("q", "k", "v", "beta", "g", "lamb", "h_kk_init", "h_kv_init")
        a = leaves(arrays, names)
        q, k, v, beta, g = (a[name].transpose(1, 2) for name in ("q", "k", "v", "beta", "g"))
        zeros = [torch.zeros_like(arrays[name]) for name in ("h_kk", "h_kv")]
        second, cross = a.get("h_kk_init", zeros[0]), a.get("h_kv_init", zeros[1])
        ridge = a["lamb"][None]
        out, second, cross = reads_one_by_one(q, k, v, beta, g, ridge, second, cross)
        outputs = {"out": out.transpose(1, 2), "h_kk": second, "h_kv": cross}
        checked(arrays, names, outputs)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), length=st.integers(1, 9), before=st.integers(0, 20))
def test_a_cholesky_factor_is_the_recursion_of_least_squares(seed, length, before):
    generator = torch.Generator().manual_seed(seed)
    d, m = 5, 3

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old, old_values = normal(2, before, d), normal(2, before, m)
    second, cross = old.mT @ old, old.mT @ old_values
    keys, values, ridge = normal(2, length, d), normal(2, length, m), normal(d).square() + 0.1
    ones = torch.ones(2, length, dtype=torch.float64)
    expected, _, _ = reads_one_by_one(
        keys, keys, values, ones, 0 * ones, ridge, second, cross, strict=True
    )
    known = keys @ solved(second, cross, ridge)
    added = corrections_in_chunk(keys, solved(second, keys.mT, ridge), values - known)
    torch.testing.assert_close(known + added, expected, rtol=1e-8, atol=1e-9)


def literal(model, document, step, ridge, decay, target, reads, chunk=CHUNK):
    """The losses, from the definition: every map by least squares on all pairs that may be read."""
    E = model.unembedding.double()
    scale = step / E.float().square().sum(1).mean().double()
    ids = torch.tensor([PREFIX, *document.token_ids.tolist()])
    pairs, losses = [], []

    def fit(pairs, position, key):
        if not pairs:
            return torch.zeros(E.shape[1], dtype=torch.float64)
        keys = torch.stack([k for _, k, _ in pairs])
        values = torch.stack([v for _, _, v in pairs])
        weights = torch.tensor([decay ** (position - at) for at, _, _ in pairs]).double()[:, None]
        second = (keys * weights).T @ keys + ridge * torch.eye(keys.shape[1]).double()
        return torch.linalg.solve(second, (keys * weights).T @ values).T @ key

    for first in range(0, len(ids) - 1, chunk):
        stop = min(first + chunk, len(ids) - 1)
        with torch.no_grad():
            hidden = model.body(ids[None, first:stop])[0].double()
        mine = []
        for t in range(stop - first):
            key, label = F.normalize(hidden[t], dim=0), ids[first + t + 1]
            from_past = fit(pairs, first - 1, key)
            o = fit(pairs + mine, first + t - 1, key) if reads == "token" else from_past
            logits = E @ (hidden[t] + scale * o)
            losses.append(float(F.cross_entropy(logits[None], label[None])))
            point = hidden[t] + scale * from_past if target == "residual" else hidden[t]
            value = E[label] - (E @ point).softmax(0) @ E
            if target == "embedding":
                value = E[label] - E.mean(0)
            if target == "residual":
                value = value + from_past
            mine.append((first + t, key, value))
        pairs += mine
    return np.array(losses)


@pytest.mark.parametrize(
    ("target", "reads", "decay"),
    [
        *itertools.product(("residual", "error", "embedding"), ("chunk", "token"), (1.0,)),
        ("residual", "chunk", 0.97),
        ("error", "token", 0.97),
    ],
)
def test_reads_documents_as_the_definition_says(llama, target, reads, decay):
    documents = [random_document("a", 51, 1), random_document("b", 32, 2)]
    values = {"step": 0.5, "ridge": 2.0, "decay": decay, "target": target, "reads": reads}
    for lanes in (1, 2):
        method = make_method(llama, "regression", lanes=lanes, **values)
        found = run_method(method, documents, Protocol(chunk=CHUNK))
        for document in documents:
            expected = literal(llama, document, **values)
            np.testing.assert_allclose(found[document.key], expected, atol=2e-4)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"reads": "token"},
        {"reads": "token", "decay": 0.9, "target": "error"},
        {"solver": "sgd", "reads": "token", "target": "embedding"},
        {"function": "kernel", "reads": "token", "window": 64},
    ],
)
def test_the_counter_agrees(llama, values):
    method = make_method(llama, "regression", **values)
    assert check_flops(method, StepShape(CHUNK, CHUNK, 0), "regression").agrees


@pytest.mark.parametrize(
    "values",
    [{"ridge": 0.0}, {"decay": 0.0}, {"rate": 2.0}, {"function": "kernel", "solver": "sgd"}],
)
def test_impossible_choices_are_refused(llama, values):
    with pytest.raises(UsageError, match=r"must be|leave solver out"):
        make_method(llama, "regression", **values)
