"""`output-correction` against its formulas, one token and one vocabulary entry at a time."""

import math

import numpy as np
import pytest
import torch
from slow import slow
from tiny import PREFIX, VOCAB, make_method, random_document, run_method, tiny_model

from tta_bench import StepShape, Window, check
from tta_bench.contract.choice import choose
from tta_bench.contract.registry import load
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError
from tta_bench.model.scores import as_scores
from tta_bench.validity.check import quick_checks

NAME = "output-correction"
EAGER = {"slow_ridge": 0.5, "fast_ridge": 3.0}
"""Ridges with which random models of few tokens move far."""


def reference(rows, ids, chunk, step=1.0, slow_ridge=1.0, fast_ridge=1000.0):
    """Log-probabilities [T, V] before each token, from those below: float64, loops over entries."""
    vocab = rows.shape[1]
    slow, fast, trend, flat, mixed, steep = np.zeros((6, vocab))
    found, read = [], 0
    for first in range(0, len(ids), chunk):
        part = range(first, min(first + chunk, len(ids)))
        apart = {t: rows[t] - trend if read else np.zeros(vocab) for t in part}
        for t in part:
            moved = rows[t] + slow + fast * apart[t]
            found.append(moved - math.log(sum(math.exp(value) for value in moved)))
        for v in range(vocab):
            gradient, curvature = np.zeros(2), np.zeros((2, 2))
            for t in part:
                q, x = math.exp(found[t][v]), np.array([1.0, apart[t][v]])
                gradient += (q - (ids[t] == v)) * x
                curvature += q * (1 - q) * np.outer(x, x)
            flat[v] += curvature[0, 0]
            mixed[v] += curvature[0, 1]
            steep[v] += curvature[1, 1]
            whole = [[flat[v] + slow_ridge, mixed[v]], [mixed[v], steep[v] + fast_ridge]]
            s, f = -step * np.linalg.solve(whole, gradient)
            slow[v] += math.copysign(math.log1p(abs(s)), s)
            fast[v] = min(1.0, max(-1.0, fast[v] + f))
        trend = (read * trend + sum(rows[t] for t in part)) / (read + len(part))
        read += len(part)
    return np.array(found)


def below(model, ids, chunk):
    """The model's log-probabilities [T, V], read in chunks without context."""
    sequence = torch.tensor([PREFIX, *ids])
    spans = [sequence[i : min(i + chunk, len(ids))] for i in range(0, len(ids), chunk)]
    with torch.no_grad():
        rows = torch.cat([model.net(span[None]).logits[0] for span in spans])
    return rows.double().log_softmax(-1).numpy()


@torch.no_grad()
def distributions(method, documents, chunk):
    """Log-probabilities [T, V] of each document, read side by side; short ones wait idle."""
    found = [[] for _ in documents]
    longest = max(len(document.token_ids) for document in documents)
    for first in range(0, longest, chunk):
        ids, targets = torch.zeros(2, len(documents), chunk, dtype=torch.int64)
        counts = []
        for lane, document in enumerate(documents):
            tokens = torch.tensor([PREFIX, *document.token_ids.tolist()])
            part = tokens[first : first + chunk + 1]
            count = max(0, len(part) - 1)
            ids[lane, :count], targets[lane, :count] = part[:count], part[1 : count + 1]
            counts.append(count)
        lengths = torch.tensor(counts)
        window = Window(ids, lengths, lengths, chunk)
        scores = as_scores(method.score(window), (len(documents), chunk, VOCAB))
        # Slices as the engine takes them, where the vocabulary is large; the first one asked again.
        pieces = [scores.rows(0, 3), scores.rows(3, chunk)]
        assert torch.equal(scores.rows(0, 3), pieces[0])
        rows = torch.cat(pieces, dim=1)
        method.adapt(window, targets, torch.zeros(len(documents), chunk))
        for lane, count in enumerate(counts):
            found[lane].append(rows[lane, :count])
    return [torch.cat(pieces).numpy() for pieces in found]


@pytest.fixture(scope="module")
def double():
    return tiny_model(dtype=torch.float64)


@pytest.mark.parametrize(
    ("chunk", "params"),
    [(16, {}), (7, EAGER), (16, EAGER | {"step": 0.5}), (64, EAGER)],
    ids=["defaults", "short", "eager", "long"],
)
def test_it_is_its_formulas_in_float64(double, chunk, params):
    documents = [random_document(f"d{n}", length, n) for n, length in enumerate((50, 29))]
    method = make_method(double, NAME, 2, **params)
    for document, found in zip(documents, distributions(method, documents, chunk), strict=True):
        ids = document.token_ids.tolist()
        rows = below(double, ids, chunk)
        np.testing.assert_allclose(found, reference(rows, ids, chunk, **params), atol=1e-9)
        assert np.abs(found[:chunk] - rows[:chunk]).max() < 1e-9  # nothing was read before
        moved = np.abs(found[chunk:] - rows[chunk:])
        assert len(moved) == 0 or moved.max() > 0.1


def test_the_stream_is_its_formulas_in_any_lanes(llama):
    documents = [random_document(f"d{n}", length, n) for n, length in enumerate((50, 32, 5))]
    found = run_method(make_method(llama, NAME, 3, **EAGER), documents)
    for document in documents:
        ids = document.token_ids.tolist()
        rows = reference(below(llama, ids, 16), ids, 16, **EAGER)
        expected = -rows[np.arange(len(ids)), ids]
        np.testing.assert_allclose(found[document.key], expected, atol=2e-4)


def test_a_step_of_zero_is_none_bit_for_bit(llama):
    document = random_document("a", 70, 1)
    method = make_method(llama, NAME, step=0)
    expected = run_method(make_method(llama, "none"), [document])["a"]
    assert np.array_equal(run_method(method, [document])["a"], expected)
    assert method.state_bytes() == 0


def test_it_learns_which_tokens_a_text_has(llama):
    document = random_document("a", 400, 2)
    plain = run_method(make_method(llama, "none"), [document])["a"]
    found = run_method(make_method(llama, NAME), [document])["a"]
    late = slice(200, None)
    assert found[late].mean() < plain[late].mean() - 0.5


def test_one_token_over_and_over_and_then_another_stays_within_bounds(llama):
    ids = np.repeat(np.array([5, 9, 5], np.int32), 320)
    document = TokenizedDocument("d", ids, len(ids), len(ids), "d")
    method = make_method(llama, NAME, **EAGER)
    found = run_method(method, [document], Protocol(chunk=64))["d"]
    plain = run_method(make_method(llama, "none"), [document], Protocol(chunk=64))["d"]
    assert (found - plain).max() < 20  # of a token that was not expected at all any more
    assert found[256:320].mean() < 0.3 > found[576:640].mean()
    assert all(bool(value.isfinite().all()) for value in method.state.values())


def test_logits_of_minus_infinity_below_stay_finite(llama, monkeypatch):
    unembed = llama.unembed

    def without_some(hidden):
        return unembed(hidden).index_fill(-1, torch.tensor([90, 91]), -math.inf)

    monkeypatch.setattr(llama, "unembed", without_some)
    ids = np.arange(80, dtype=np.int32) % 40 + 3
    document = TokenizedDocument("d", ids, len(ids), len(ids), "d")
    found = run_method(make_method(llama, NAME, **EAGER), [document])["d"]
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "spec", [NAME, f"{NAME}:step=0", f"window:context=8+{NAME}", f"{NAME}+neural-cache:window=32"]
)
def test_its_formula_is_what_is_counted(llama, spec):
    chosen = choose(spec)
    for shape in (StepShape(16, 16, 0), StepShape(40, 24, 0)):
        report = check_flops(chosen.cls(llama, chosen.params, 2), shape, spec)
        assert report.counted == pytest.approx(report.analytic, rel=0.02)


def test_it_corrects_what_stands_below(llama):
    document = random_document("a", 120, 2)
    losses = {}
    for spec in ("regression", f"regression+{NAME}", f"{NAME}+neural-cache", NAME):
        chosen = choose(spec)
        losses[spec] = run_method(chosen.cls(llama, chosen.params, 1), [document])["a"][32:].mean()
    assert losses[f"regression+{NAME}"] < losses["regression"]
    assert losses[f"{NAME}+neural-cache"] < losses[NAME]


def test_its_state_is_bounded_and_float32_under_bfloat16():
    model = tiny_model("llama", torch.bfloat16)
    method = make_method(model, NAME)
    run_method(method, [random_document("a", 60, 1)])
    assert {value.dtype for value in method.state.values()} == {torch.float32}
    assert method.state_bytes() == 4 * (6 * VOCAB + 1)


def test_quick_checks_pass():
    cls = load(NAME)
    assert quick_checks(cls, cls.Params(), NAME).valid is True


@slow
def test_every_probe_passes():
    report = check(NAME).report
    assert {result.probe for result in report.results if result.status != "pass"} == set()
    assert report.valid is True


@pytest.mark.parametrize(
    ("params", "words"),
    [({"step": -1}, "step must"), ({"slow_ridge": 0}, "above 0"), ({"fast_ridge": -2}, "above 0")],
)
def test_wrong_parameters_get_one_sentence(llama, params, words):
    with pytest.raises(UsageError, match=words):
        make_method(llama, NAME, **params)
