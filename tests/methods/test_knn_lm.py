"""kNN-LM: the authors' numbers, the sum it is defined by, and what it stands on."""

import math

import numpy as np
import pytest
import torch
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PREFIX, make_method, random_document, run_method

from tta_bench import UsageError
from tta_bench.contract.choice import choose
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.model.step_shape import StepShape
from tta_bench_methods.output.knn_lm import nearest, neighbour_shares, squared_distances
from tta_bench_methods.output.mixture import mixed, places_of

PARAMS = {"k": 5, "temperature": 0.3, "weight": 0.4}
ABSENT = -10_000.0


# The authors' numbers


def read(path):
    """The arrays of a file, queries and logits with a lane dimension first.

    Vectors are in float64: where they are not of unit length, as the method's own are, squares and
    products of float32 cancel.
    """
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    keys, queries, logits = (
        found[name].double().reshape(-1, found[name].shape[-1])[None]
        for name in ("keys", "queries", "lm_logits")
    )
    return found, keys, queries, logits, found["vals"].long()[None]


def distributions(found, keys, queries, logits, tokens, similarity):
    """log p of the neighbours and of the mixture, [Q, V]."""
    everything = torch.ones(1, 1, keys.shape[1], dtype=torch.bool)
    temperature = float(found.get("temperature", 1.0))
    shares = neighbour_shares(queries, keys, everything, int(found["k"]), temperature, similarity)
    neighbours = torch.zeros_like(logits).scatter_add(2, tokens[:, None].expand_as(shares), shares)
    known = torch.ones(1, queries.shape[1], 1, dtype=torch.bool)
    places = places_of(tokens, logits.shape[2])
    mixture = mixed(logits, shares.float(), tokens, places, known, float(found["lmbda"]))
    return neighbours.float().log().clamp_min(ABSENT)[0], mixture[0]


@pytest.mark.parametrize("path", golden("knn-lm", "*_neulab_*.npz"))
def test_whole_distributions_agree_with_knn_transformers(path):
    found, keys, queries, logits, tokens = read(path)
    neighbours, mixture = distributions(found, keys, queries, logits, tokens, "l2")
    torch.testing.assert_close(neighbours, found["knn_log_prob"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixture, found["log_prob"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", golden("knn-lm", "*_neulab_*.npz"))
def test_neighbours_and_distances_agree_with_exact_search(path):
    found, keys, queries, _, _ = read(path)
    distances = squared_distances(queries, keys, queries @ keys.mT)[0]
    expected = found["knn_indices"].long()
    torch.testing.assert_close(
        distances.gather(1, expected).float(), found["knn_sq_l2"], rtol=1e-5, atol=1e-4
    )
    chosen = nearest(distances, int(found["k"]))
    assert torch.equal(chosen, torch.zeros_like(chosen).scatter(1, expected, True))


@pytest.mark.parametrize("path", golden("knn-lm", "*_urvashik_*.npz"))
def test_targets_agree_with_knnlm(path):
    found, *arrays = read(path)
    similarity = "dot" if path.stem.endswith("dot") else "l2"
    neighbours, mixture = distributions(found, *arrays, similarity)
    targets = found["target"].long().flatten()
    scored = targets != int(found["pad"])
    pairs = (
        (neighbours, found["knn_log_prob_of_target"]),
        (mixture, found["log_prob_of_target"]),
    )
    for ours, theirs in pairs:
        ours = ours.gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(ours[scored], theirs.flatten()[scored], rtol=1e-5, atol=1e-5)


# The sum it is defined by


def reference(model, ids, chunk, k, temperature, weight, window=10**6, similarity="l2"):
    """p = (1 - l) p_LM + l p_kNN, written as loops over positions and remembered pairs."""
    sequence = torch.tensor([PREFIX, *ids])
    remembered, losses = [], []
    for first in range(0, len(ids), chunk):
        stop = min(first + chunk, len(ids))
        output = model.net(sequence[None, first:stop], output_hidden_states=True)
        hidden = output.hidden_states[-1][0].double()
        unit = hidden / hidden.norm(dim=-1, keepdim=True)
        for i in range(stop - first):
            target = int(sequence[first + i + 1])
            p = float(output.logits[0, i].softmax(-1)[target])
            store = [
                (float((unit[i] - key).square().sum()), float(unit[i] @ key), y)
                for key, y in remembered[-window:]
            ]
            if store:
                kth = sorted(distance for distance, _, _ in store)[:k][-1]
                near = [
                    (math.exp((dot if similarity == "dot" else -distance) / temperature), y)
                    for distance, dot, y in store
                    if distance <= kth + 1e-6
                ]
                match = sum(share for share, y in near if y == target)
                p = (1 - weight) * p + weight * match / sum(share for share, _ in near)
            losses.append(-math.log(p))
            remembered.append((unit[i], target))
    return np.array(losses)


@pytest.mark.parametrize("extra", [{}, {"window": 10}, {"similarity": "dot"}, {"k": 1000}])
@pytest.mark.parametrize("chunk", [16, 64])
def test_it_is_the_mixture_of_the_paper(llama, extra, chunk):
    document = random_document("a", 70, 5)
    params = {**PARAMS, **extra}
    method = make_method(llama, "knn-lm", **params)
    found = run_method(method, [document], Protocol(chunk=chunk))["a"]
    np.testing.assert_allclose(
        found, reference(llama, document.token_ids, chunk, **params), atol=1e-4
    )


def test_lanes_of_other_lengths_have_neighbours_of_their_own(llama, documents):
    method = make_method(llama, "knn-lm", lanes=3, window=20, **PARAMS)
    found = run_method(method, documents, Protocol(chunk=16))
    for document in documents:
        expected = reference(llama, document.token_ids, 16, window=20, **PARAMS)
        np.testing.assert_allclose(found[document.key], expected, atol=1e-4)


def test_with_all_neighbours_it_is_the_neural_cache(llama):
    """|q - k|^2 = 2 - 2 q.k for unit vectors, so that theta is 2 / temperature."""
    document = random_document("a", 90, 5)
    knn = make_method(llama, "knn-lm", k=10**6, temperature=0.25, weight=0.3)
    cache = make_method(llama, "neural-cache", theta=8.0, weight=0.3)
    one, other = (run_method(method, [document])["a"] for method in (knn, cache))
    np.testing.assert_allclose(one, other, atol=2e-6)


# What it stands on


def test_on_a_window_it_reads_the_states_of_the_window(llama):
    document = random_document("a", 70, 3)
    choice = choose("window:context=8+knn-lm:k=5,temperature=0.3,weight=0.4")
    stacked = run_method(choice.cls(llama, choice.params, 1), [document], Protocol(chunk=16))["a"]
    protocol = Protocol(chunk=16, context=8, context_mode="recompute")
    alone = run_method(make_method(llama, "knn-lm", **PARAMS), [document], protocol)["a"]
    np.testing.assert_allclose(stacked, alone, atol=1e-5)


def test_with_weight_0_it_is_what_stands_below(llama):
    document = random_document("a", 70, 3)
    off, none = make_method(llama, "knn-lm", weight=0.0), make_method(llama, "none")
    one, other = (run_method(method, [document])["a"] for method in (off, none))
    assert np.array_equal(one, other)


# Sharing and mixing, whatever the numbers


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(2, 9), st.floats(0.01, 0.99), st.data())
def test_a_mixture_sums_to_one_and_gains_where_a_token_is_remembered(k, pairs, vocab, weight, data):
    seed = data.draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    queries, keys = torch.randn(2, 3, 4), torch.randint(2, (2, pairs, 4)).float()  # with ties
    tokens = torch.randint(vocab, (2, pairs))
    visible = torch.rand(2, 3, pairs) < 0.7
    known = visible.any(-1, keepdim=True)
    shares = neighbour_shares(queries, keys, visible, k, 0.5, "l2")
    shares = torch.where(known, shares, 0.0)
    assert ((shares > 0) <= visible).all()
    rows = torch.randn(2, 3, vocab) * 3
    found = mixed(rows, shares, tokens, places_of(tokens, vocab), known, weight)
    cache = torch.zeros_like(rows).scatter_add(2, tokens[:, None].expand_as(shares), shares)
    expected = torch.where(
        known, (1 - weight) * rows.softmax(-1) + weight * cache, rows.softmax(-1)
    )
    torch.testing.assert_close(found.exp(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 3), rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 14))
def test_pairs_as_near_as_the_kth_are_all_neighbours(values, k):
    distances = torch.tensor(values, dtype=torch.float32)
    kth = sorted(values)[:k][-1]
    assert nearest(distances, k).tolist() == [value <= kth for value in values]


def test_its_formula_agrees_with_the_counter(llama):
    report = check_flops(make_method(llama, "knn-lm", window=64), StepShape(16, 16, 0), "knn-lm")
    assert report.analytic == pytest.approx(report.counted, rel=0.02)


@pytest.mark.parametrize("params", [{"k": 0}, {"temperature": 0.0}, {"window": 0}, {"weight": 1.0}])
def test_settings_that_mean_nothing_get_one_sentence(llama, params):
    with pytest.raises(UsageError, match=f"{next(iter(params))} must be"):
        make_method(llama, "knn-lm", **params)
