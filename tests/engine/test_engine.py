"""The rules of the game, as the engine enforces them."""

import numpy as np
import pytest
import torch
from slow import slow
from tiny import PREFIX, VOCAB, make_method, random_document, run_method, tiny_model

from tta_bench import LaneScores, Method, Scores, StepShape, Window
from tta_bench.cost.memory import PeakMemory
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.scores import DenseLogits, token_nll


def reference_nll(model, ids, chunk, context):
    """One document, chunk by chunk, straight through transformers."""
    sequence = torch.tensor([PREFIX, *ids])
    losses = []
    for first in range(0, len(ids), chunk):
        stop = min(first + chunk, len(ids))
        start = max(0, first - context)
        logits = model.net(sequence[None, start:stop]).logits[0, first - start :]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits, sequence[first + 1 : stop + 1], reduction="none"
            )
        )
    return torch.cat(losses).detach().numpy()


@pytest.mark.parametrize("context", [0, 5, 40])
def test_none_is_the_models_own_loss(llama, documents, context):
    protocol = Protocol(chunk=16, context=context, context_mode="recompute" if context else "none")
    found = run_method(make_method(llama, "none", lanes=2), documents, protocol)
    for document in documents:
        expected = reference_nll(llama, document.token_ids, 16, context)
        np.testing.assert_allclose(found[document.key], expected, atol=2e-5)


def test_a_carried_cache_sees_what_recomputing_sees_when_nothing_is_dropped(llama, documents):
    recompute = Protocol(chunk=16, context=64, context_mode="recompute")
    cache = Protocol(chunk=16, context=64, context_mode="cache")
    one = run_method(make_method(llama, "none"), documents, recompute)
    other = run_method(make_method(llama, "none", lanes=3), documents, cache)
    for key, losses in one.items():
        np.testing.assert_allclose(other[key], losses, atol=2e-5)


def test_every_token_is_scored_once(llama, documents):
    found = run_method(make_method(llama, "none", lanes=3), documents)
    assert {k: len(v) for k, v in found.items()} == {d.key: len(d.token_ids) for d in documents}


METHODS = ["none", "dynamic-eval", "neural-cache", "fwl-untrained"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mode", ["none", "cache"])
def test_lanes_are_strangers(llama, documents, name, mode):
    protocol = Protocol(chunk=16, context=16 if mode == "cache" else 0, context_mode=mode)
    alone = run_method(make_method(llama, name), documents, protocol)
    together = run_method(make_method(llama, name, lanes=3), documents, protocol)
    reordered = run_method(make_method(llama, name, lanes=2), documents[::-1], protocol)
    for key, losses in alone.items():
        np.testing.assert_allclose(together[key], losses, atol=1e-5)
        np.testing.assert_allclose(reordered[key], losses, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("subset", ["all", "mlp", "lora", "last-1"])
def test_lanes_with_weights_of_their_own_are_strangers(llama, documents, subset, optimizer):
    params = {"subset": subset, "optimizer": optimizer}
    alone = run_method(make_method(llama, "dynamic-eval", **params), documents)
    for lanes in (1, 3):
        method = make_method(llama, "dynamic-eval", lanes=lanes, **params)
        reordered = run_method(method, documents[::-1])
        for key, losses in alone.items():
            np.testing.assert_allclose(reordered[key], losses, atol=1e-5)


FIXED = [(name, mode) for name in METHODS for mode in ("none", "recompute", "cache")]
FIXED.append(("window", "none"))  # it provides its own context


@slow
@pytest.mark.parametrize(
    ("lanes", "name", "mode"),
    # One lane alone is padded the same way in every mode of context.
    [(3, *one) for one in FIXED] + [(1, name, "recompute") for name in METHODS],
)
def test_windows_of_one_shape_give_the_same_numbers(llama, documents, name, mode, lanes):
    """Chunks of 64: documents that end in mid chunk, and all but one are shorter than a chunk.

    Windows of a compiled run have one shape; without a warm-up nothing is compiled yet.
    """
    for chunk in (16, 64):
        protocol = Protocol(chunk=chunk, context=16 * (mode != "none"), context_mode=mode)
        params = {"context": 24} if name == "window" else {}
        tight = run_method(make_method(llama, name, lanes, **params), documents, protocol)
        for longest in (None, 64):
            method = make_method(llama, name, lanes, **params)
            shapes = set()
            engine = Engine(method, protocol, PREFIX, debug=True, compile=True, longest=longest)
            score = method.score

            def seen(window, score=score, shapes=shapes):
                shapes.add((tuple(window.input_ids.shape), tuple(window.mask.shape)))
                return score(window)

            method.score = seen
            found = {result.document.key: result.nll for result in engine.run(documents)}
            width = protocol.inputs_per_window if longest is None else min(64, chunk + 16)
            if mode != "recompute":
                width = chunk
            assert shapes == {((lanes, width), (lanes, chunk))}
            for key, losses in tight.items():
                np.testing.assert_allclose(found[key], losses, atol=1e-5)


def test_one_shape_with_columns_that_no_lane_scores_slice_by_slice(llama, documents, monkeypatch):
    from tta_bench.model import scores

    protocol = Protocol(chunk=64)
    tight = run_method(make_method(llama, "dynamic-eval", lanes=2), documents[1:], protocol)
    monkeypatch.setattr(scores, "SLICE_BYTES", {"cpu": 2 * VOCAB * 4 * 5})
    method = make_method(llama, "dynamic-eval", lanes=2)
    engine = Engine(method, protocol, PREFIX, debug=True, compile=True)
    for result in engine.run(documents[1:]):
        np.testing.assert_allclose(result.nll, tight[result.document.key], atol=1e-5)


def test_columns_that_no_lane_scores_read_as_zero():
    scores = LaneScores({1: DenseLogits(torch.randn(1, 3, VOCAB))}, 2, 8, VOCAB)
    assert not scores.rows(5, 8).any()
    torch.testing.assert_close(scores.rows(4, 8), scores.full()[:, 4:])


def test_one_shape_where_a_cache_is_never_reset(llama, documents):
    protocol = Protocol(chunk=16, context=16, context_mode="cache", reset="never")
    tight = run_method(make_method(llama, "none"), documents, protocol)
    engine = Engine(make_method(llama, "none"), protocol, PREFIX, debug=True, compile=True)
    for result in engine.run(documents):
        np.testing.assert_array_equal(result.nll, tight[result.document.key])


@pytest.mark.parametrize("one_shape", [False, True])
def test_padding_never_reaches_positions_that_a_model_has_not(one_shape):
    """A lane that ends at the last position, beside one whose window is wider."""
    model = tiny_model("gpt2")
    texts = [random_document("long", 250, 1), random_document("late", 300 - 50, 2)]
    protocol = Protocol(chunk=100, context=256, context_mode="cache")
    alone = run_method(make_method(model, "none"), texts, protocol)
    short = random_document("short", 100, 3)
    engine = Engine(make_method(model, "none", lanes=2), protocol, PREFIX, True, compile=one_shape)
    found = {r.document.key: r.nll for r in engine.run([texts[0], short, texts[1]])}
    for key, losses in alone.items():
        np.testing.assert_allclose(found[key], losses, atol=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_after_reset_a_method_is_as_fresh(llama, documents, name):
    method = make_method(llama, name)
    first = run_method(method, documents[:1])
    run_method(method, documents[1:3])
    again = run_method(method, documents[:1])
    np.testing.assert_array_equal(first["doc0"], again["doc0"])


@pytest.mark.parametrize("name", METHODS)
def test_adapting_changes_later_chunks_only(llama, documents, name):
    """Chunk-granular methods; label-reading ones may differ inside the first chunk too."""
    plain = run_method(make_method(llama, "none"), documents[:1])["doc0"]
    adapted = run_method(make_method(llama, name), documents[:1])["doc0"]
    assert adapted[0] == pytest.approx(plain[0], abs=1e-6)
    if name != "none":
        assert not np.allclose(adapted[32:], plain[32:], atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("position", [15, 16, 17, 24])
def test_the_future_does_not_reach_back(llama, name, position):
    document = random_document("a", 48, 3)
    changed = document.token_ids.copy()
    changed[position:] = (changed[position:] * 7 + 5) % VOCAB
    other = TokenizedDocument("a", changed, 96, 48, "b")
    one = run_method(make_method(llama, name), [document])["a"]
    two = run_method(make_method(llama, name), [other])["a"]
    np.testing.assert_array_equal(one[:position], two[:position])


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("dynamic-eval", {"lr": "0"}),
        ("dynamic-eval", {"lr": "0", "optimizer": "sgd", "subset": "lora"}),
        ("neural-cache", {"weight": "0"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_off_means_off(documents, name, off, dtype):
    model = tiny_model("llama", dtype)
    plain = run_method(make_method(model, "none"), documents)
    switched_off = run_method(make_method(model, name, **off), documents)
    for key, losses in plain.items():
        np.testing.assert_array_equal(switched_off[key], losses)


def test_reset_never_carries_state_from_document_to_document(llama, documents):
    never = Protocol(chunk=16, reset="never")
    carried = run_method(make_method(llama, "dynamic-eval"), documents, never)
    apart = run_method(make_method(llama, "dynamic-eval"), documents)
    np.testing.assert_array_equal(carried["doc0"], apart["doc0"])
    assert not np.array_equal(carried["doc1"], apart["doc1"])


def test_warming_up_leaves_no_trace(llama, documents):
    cold = run_method(make_method(llama, "dynamic-eval"), documents)
    engine = Engine(make_method(llama, "dynamic-eval"), Protocol(chunk=16), PREFIX)
    engine.warm_up(StepShape(16, 16, 0))
    warm = {r.document.key: r.nll for r in engine.run(documents)}
    for key, losses in cold.items():
        np.testing.assert_array_equal(warm[key], losses)


def test_short_documents_are_skipped_with_the_reason(llama):
    short = TokenizedDocument("short", np.array([5], dtype=np.int32), 1, 1, "x")
    engine = Engine(make_method(llama, "none"), Protocol(chunk=16), PREFIX)
    results = {r.document.key: r for r in engine.run([short, random_document("a", 20, 0)])}
    assert results["short"].status == "skipped"
    assert results["short"].reason == "1 token; at least 2 are needed"
    assert results["a"].status == "done"


class Failing(Method):
    """Fails in the way `trouble` says, at the second chunk."""

    trouble = "none"
    steps = 0

    def score(self, window: Window) -> Scores:
        self.steps += 1
        logits = self.model.logits(window)
        if self.steps < 2 or self.trouble == "none":
            return logits
        if self.trouble == "oom":
            raise torch.OutOfMemoryError("out of memory")
        if self.trouble == "error":
            raise ValueError("what a plugin may raise")
        full = logits.full()
        full[0] = torch.nan
        return DenseLogits(full)


@pytest.mark.parametrize(
    ("trouble", "statuses"),
    [
        ("oom", {"doc0": "oom", "doc1": "oom"}),
        ("error", {"doc0": "error", "doc1": "error"}),
        (
            "nan",
            {"doc0": "diverged", "doc1": "done", "doc2": "diverged", "doc3": "diverged"},
        ),
    ],
)
def test_failures_become_rows(llama, documents, trouble, statuses):
    method = Failing(llama, None, 2)
    method.trouble = trouble
    results = list(Engine(method, Protocol(chunk=16), PREFIX).run(documents[:4]))
    found = {r.document.key: r.status for r in results}
    assert {k: v for k, v in found.items() if k in statuses} == statuses
    assert all(r.reason for r in results if r.status != "done")
    assert all(r.nll is None for r in results if r.status != "done")


def test_figures_that_cannot_be_had_end_their_document(llama, documents):
    method = make_method(llama, "none")
    method.figures = lambda lane: {"moved": 1 / (lane * 0)}
    (result,) = Engine(method, Protocol(chunk=16), PREFIX).run(documents[:1])
    assert (result.status, result.nll, result.figures) == ("error", None, {})
    assert "ZeroDivisionError" in result.reason


class Boosting(Method):
    """Says of probabilities that sum to more than one that they are normalised."""

    def score(self, window):
        scores = DenseLogits(self.model.logits(window).full().log_softmax(-1) + 0.1)
        scores.normalised = True
        return scores


def test_unnormalised_probabilities_are_refused(llama, documents):
    (result,) = Engine(Boosting(llama, None, 1), Protocol(chunk=64), PREFIX).run(documents[:1])
    assert result.status == "error"
    assert "do not sum to one" in result.reason


def test_unnormalised_probabilities_of_a_captured_step_are_refused_after_it(
    llama, documents, monkeypatch
):
    """While a step is captured nothing may wait for its values: its losses carry the refusal."""
    from tta_bench.model import scores as module

    monkeypatch.setattr(module, "capturing", lambda tensor: True)
    scores = DenseLogits(
        torch.randn(1, 3, VOCAB).log_softmax(-1) + torch.tensor([[[0], [0.1], [0.1]]])
    )
    scores.normalised = True
    mask = torch.tensor([[True, True, False]])
    nll = token_nll(scores, lambda: torch.ones(1, 3, dtype=torch.int64), mask)
    assert nll.isinf().tolist() == [[False, True, False]]

    (result,) = Engine(Boosting(llama, None, 1), Protocol(chunk=64), PREFIX).run(documents[:1])
    assert result.status == "error"
    assert "do not sum to one" in result.reason


def test_a_wrong_shape_is_refused(llama, documents):
    class Short(Method):
        def score(self, window):
            return self.model.logits(window).full()[..., :-1]

    (result,) = Engine(Short(llama, None, 1), Protocol(chunk=64), PREFIX).run(documents[:1])
    assert result.status == "error"
    assert "it must be [lanes, chunk, vocabulary]" in result.reason


def test_losses_do_not_depend_on_how_the_vocabulary_is_sliced(monkeypatch):
    from tta_bench.model import scores

    logits = torch.randn(2, 13, VOCAB, requires_grad=True)
    targets = torch.randint(VOCAB, (2, 13))
    mask = torch.ones(2, 13, dtype=torch.bool)
    whole = token_nll(DenseLogits(logits), lambda: targets, mask, gradients=True)
    (expected,) = torch.autograd.grad(whole.sum(), logits)
    monkeypatch.setattr(scores, "SLICE_BYTES", {"cpu": 2 * VOCAB * 4 * 3})
    monkeypatch.setattr(scores, "RETAINED_BYTES", {"cpu": 1})
    sliced = token_nll(DenseLogits(logits), lambda: targets, mask, gradients=True)
    (found,) = torch.autograd.grad(sliced.sum(), logits)
    torch.testing.assert_close(sliced, whole)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["none", pytest.param("fwl-untrained", marks=slow)])
def test_a_novel_streams_in_bounded_memory(llama, name):
    """Ten times the length, 200 k tokens: the peak of the process stays where it was."""
    peaks = []
    for length in (20_000, 200_000):
        novel = random_document("novel", length, 1)
        engine = Engine(make_method(llama, name), Protocol(chunk=1000), PREFIX)
        memory = PeakMemory("cpu")
        memory.start()
        (result,) = engine.run([novel])
        peaks.append(memory.stop().process_bytes)
        assert result.status == "done"
        assert len(result.nll) == length
    if None not in peaks:  # only Linux tells
        assert peaks[1] - peaks[0] < 48 * 2**20
