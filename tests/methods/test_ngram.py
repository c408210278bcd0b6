"""`ngram` against its formulas, written with dicts, one token at a time."""

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PREFIX, make_method, random_document, run_method

from tta_bench import Window
from tta_bench.contract.choice import choose
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError
from tta_bench.model.scores import as_scores
from tta_bench.model.step_shape import StepShape
from tta_bench_methods.output.ngram.trust import GRID, Learner, fresh_evidence


def below(model, ids, chunk):
    """The model's distribution [V] at every position, read in chunks without context."""
    sequence = torch.tensor([PREFIX, *ids])
    spans = [sequence[i : min(i + chunk, len(ids))] for i in range(0, len(ids), chunk)]
    with torch.no_grad():
        rows = torch.cat([model.net(span[None]).logits[0] for span in spans])
    return rows.double().softmax(-1).numpy()


def reference(probabilities, ids, order, window, caution):
    """The distribution [T, V] before each token of `ids`, learning token by token."""
    read = [PREFIX, *ids]
    evidence = {}
    distributions = []
    for t, label in enumerate(ids):
        now, expert = probabilities[t].copy(), []
        for k in range(1, order + 1):
            context = read[t + 1 - k : t + 1] if t + 1 >= k else None
            followers = Counter(
                read[s + 1]
                for s in range(max(k - 1, t - window), t)
                if read[s + 1 - k : s + 1] == context
            )
            seen = sum(followers.values())
            if seen == 0:
                continue
            often = sum(seen > bound for bound in (1, 2, 4))
            situation = (k, often, len(followers) == 1)
            odds = evidence.setdefault(situation, [caution * math.log(1 - a) for a in GRID])
            likely = [math.exp(value - max(odds)) for value in odds]
            share = sum(a * x for a, x in zip(GRID, likely, strict=True)) / sum(likely)
            q = np.zeros_like(now)
            for token, count in followers.items():
                q[token] = count / seen
            expert.append((odds, q[label], now[label]))
            now = share * q + (1 - share) * now
        for odds, q, lower in expert:
            for i, a in enumerate(GRID):
                odds[i] += math.log(a * q + (1 - a) * lower)
        distributions.append(now)
    return np.array(distributions)


def losses(model, ids, chunk, order=5, window=4096, caution=4.0):
    rows = reference(below(model, ids, chunk), ids, order, window, caution)
    return -np.log(rows[np.arange(len(ids)), ids])


def small(length, seed, symbols=4):
    """A document of few symbols, so that all orders are seen often."""
    ids = np.random.default_rng(seed).integers(3, 3 + symbols, size=length).astype(np.int32)
    return TokenizedDocument(f"small-{seed}", ids, length, length, str(seed))


@pytest.mark.parametrize("window", [7, 100])
@pytest.mark.parametrize("chunk", [5, 16, 64])
@pytest.mark.parametrize("order", [1, 4])
def test_it_is_what_its_formulas_say(llama, order, chunk, window):
    for document in (random_document("a", 70, 5), small(70, 1)):
        method = make_method(llama, "ngram", order=order, window=window)
        found = run_method(method, [document], Protocol(chunk=chunk))[document.key]
        expected = losses(llama, document.token_ids.tolist(), chunk, order, window)
        np.testing.assert_allclose(found, expected, atol=2e-4)


@settings(max_examples=12)
@given(
    ids=st.lists(st.integers(1, 4), min_size=2, max_size=30),
    chunk=st.integers(1, 12),
    order=st.integers(1, 6),
    window=st.integers(1, 40),
    caution=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_any_document_of_few_symbols(llama, ids, chunk, order, window, caution):
    document = TokenizedDocument("d", np.array(ids, np.int32), len(ids), len(ids), "d")
    method = make_method(llama, "ngram", order=order, window=window, caution=caution)
    found = run_method(method, [document], Protocol(chunk=chunk))["d"]
    np.testing.assert_allclose(found, losses(llama, ids, chunk, order, window, caution), atol=2e-4)


def test_lanes_of_other_lengths_change_nothing(llama, documents):
    method = make_method(llama, "ngram", lanes=3, window=30)
    found = run_method(method, documents, Protocol(chunk=16))
    for document in documents:
        expected = losses(llama, document.token_ids.tolist(), 16, window=30)
        np.testing.assert_allclose(found[document.key], expected, atol=2e-4)


def one_chunk(model, ids, **params):
    method = make_method(model, "ngram", **params)
    read = torch.tensor([[PREFIX, *ids[:-1]]])
    length = torch.tensor([len(ids)])
    window = Window(read, length, length, len(ids))
    return method, window, as_scores(method.score(window), (1, len(ids), model.vocab_size))


@torch.no_grad()
def test_every_row_is_the_whole_distribution(llama):
    ids = small(60, 3).token_ids.tolist()
    _, _, scores = one_chunk(llama, ids)
    found = scores.full()[0].double()
    np.testing.assert_allclose(found.logsumexp(-1), 0, atol=2e-6)
    expected = reference(below(llama, ids, 60), ids, 5, 4096, 4.0)
    np.testing.assert_allclose(found.exp(), expected, atol=2e-5)


@torch.no_grad()
def test_rows_do_not_depend_on_the_order_in_which_they_are_asked_for(llama):
    ids = small(40, 4).token_ids.tolist()
    whole = one_chunk(llama, ids)[2].full()
    _, _, scores = one_chunk(llama, ids)
    late = scores.rows(25, 40)
    torch.testing.assert_close(late, whole[:, 25:], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.rows(10, 30), whole[:, 10:30], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_nobody_asked_for_is_learned_all_the_same(llama):
    ids = small(40, 4).token_ids.tolist()
    states = []
    for stop in (0, 13, 40):
        method, window, scores = one_chunk(llama, ids)
        scores.read(stop)
        method.adapt(window, torch.tensor([ids]), torch.zeros(1, 40))
        states.append(method.state["evidence"])
    torch.testing.assert_close(states[0], states[2], atol=1e-4, rtol=0)
    torch.testing.assert_close(states[1], states[2], atol=1e-4, rtol=0)


@torch.no_grad()
def test_after_new_tokens_it_is_exactly_the_model(llama):
    ids = list(range(3, 40))
    _, window, scores = one_chunk(llama, ids)
    assert torch.equal(scores.full(), llama.logits(window).full().log_softmax(-1))


def test_a_token_that_the_model_holds_impossible_leaves_finite_odds():
    fresh = fresh_evidence(1, 8, 4.0)[None]
    one = torch.ones(1, 2, 1, dtype=torch.int64)
    chances = torch.zeros(1, 2)
    seen = torch.ones(1, 2, dtype=torch.bool)
    for hits in (one, 0 * one):
        shares, after = Learner()(fresh, torch.tensor(GRID), chances, one, hits, one, seen)
        assert shares.isfinite().all()
        assert after.isfinite().all()


def built(model, spec):
    choice = choose(spec)
    return choice.cls(model, choice.params, 1)


def test_it_mixes_into_what_stands_below(llama):
    document = small(60, 2)
    ids = document.token_ids.tolist()
    cache = built(llama, "neural-cache:window=100")
    read = torch.tensor([[PREFIX, *ids[:-1]]])
    length = torch.tensor([len(ids)])
    with torch.no_grad():
        below_it = cache.score(Window(read, length, length, len(ids))).full()[0].exp()
    rows = reference(below_it.double().numpy(), ids, 5, 4096, 4.0)
    found = run_method(
        built(llama, "neural-cache:window=100+ngram"), [document], Protocol(chunk=60)
    )
    expected = -np.log(rows[np.arange(len(ids)), ids])
    np.testing.assert_allclose(found[document.key], expected, atol=2e-4)


@pytest.mark.parametrize("spec", ["ngram:window=40+neural-cache", "window:context=8+ngram"])
def test_others_stand_on_it_and_it_stands_on_context(llama, spec):
    document = small(60, 2)
    found = run_method(built(llama, spec), [document])[document.key]
    for alone in spec.split("+"):
        single = run_method(built(llama, alone), [document])[document.key]
        assert np.abs(found - single).max() > 1e-2


def test_flops_are_those_below(llama):
    shape = StepShape(16, 16, 32)
    report = check_flops(make_method(llama, "ngram", window=40), shape, "ngram")
    assert report.analytic == make_method(llama, "none").flops(shape)
    assert report.analytic == pytest.approx(report.counted, rel=0.02)


def test_compiled_it_reads_the_same(llama, monkeypatch):
    # A backend without code generation: what is tested is what was traced.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    document = small(32, 6)
    plain, compiled = (make_method(llama, "ngram", order=2, window=30) for _ in range(2))
    compiled.compile()
    expected = run_method(plain, [document])[document.key]
    np.testing.assert_allclose(run_method(compiled, [document])[document.key], expected, atol=1e-5)


@pytest.mark.parametrize("window", [20, 100])
def test_empty_places_may_be_read_or_left_out(llama, monkeypatch, window):
    document = small(60, 7)
    short = run_method(make_method(llama, "ngram", window=window), [document])[document.key]
    monkeypatch.setattr("tta_bench_methods.output.ngram.method.on_host", lambda tensor: False)
    full = run_method(make_method(llama, "ngram", window=window), [document])[document.key]
    np.testing.assert_allclose(short, full, atol=1e-6)


def test_state_is_what_it_says(llama):
    method = make_method(llama, "ngram", order=3, window=100)
    assert method.state_bytes() == 8 * (100 + 2) + 4 * 3 * 8 * 8
    assert make_method(llama, "ngram", order=0).state_bytes() == 0


@pytest.mark.parametrize("params", [{"window": 0}, {"order": -1}, {"order": 65}, {"caution": -1.0}])
def test_wrong_parameters_get_one_sentence(llama, params):
    with pytest.raises(UsageError, match="must be at least"):
        make_method(llama, "ngram", **params)
