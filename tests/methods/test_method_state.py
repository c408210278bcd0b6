"""Methods that run batched over lanes: state is kept in place, and nothing waits for the device.

What a CUDA graph needs of a step: tensors that stay where they are, and no value read by the host.
Lanes are ragged here in every step, and chunks wider than any lane fills.
"""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from fast_heads import LEARNED
from slow import slow
from tiny import PREFIX, make_method, random_document, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from tta_bench import Window
from tta_bench.contract.registry import load
from tta_bench.model.scores import as_scores, token_nll

CHUNK = 8
COUNTS = [(8, 3, 5), (8, 0, 8), (1, 8, 6), (8, 8, 0), (5, 2, 8)]
"""Tokens that each of three lanes scores in each step."""

READ = [name for name in LEARNED if not load(name).gradients]
"""Trained methods that take no gradients; `read` gives none, as the engine does to these."""

METHODS = [
    ("none", {}),
    ("fwl", {"weights": "random"}),
    ("fwl-untrained", {"step": 3.0, "reach": 30.0}),
    ("neural-cache", {"window": 10, "theta": 7.0, "weight": 0.2}),
    ("ngram", {"window": 10, "order": 3}),
    ("knn-lm", {"window": 10, "k": 4, "weight": 0.2}),
    ("output-correction", {"slow_ridge": 0.5, "fast_ridge": 3.0}),
    ("streaming-llm", {"sinks": 2, "recent": 6}),
    ("window", {"context": 6}),
    *((name, {"weights": "random"}) for name in READ),
]
NAMES = [name for name, _ in METHODS]


@pytest.fixture(scope="module")
def model():
    return tiny_model(dtype=torch.float64)


@pytest.fixture(scope="module")
def sequences():
    lengths = [sum(step[lane] for step in COUNTS) for lane in range(3)]
    documents = [random_document("d", n, seed) for seed, n in enumerate(lengths)]
    return [torch.tensor([PREFIX, *document.token_ids.tolist()]) for document in documents]


def read(method, sequences, counts, chunk=None):
    """Losses of each lane: `counts[step][lane]` tokens a step, padded to `chunk` columns."""
    losses = [[] for _ in sequences]
    done = [0] * len(sequences)
    for step in counts:
        width = max(step) if chunk is None else chunk
        ids = torch.zeros(len(sequences), width, dtype=torch.int64)
        targets = torch.zeros_like(ids)
        for lane, n in enumerate(step):
            ids[lane, :n] = sequences[lane][done[lane] : done[lane] + n]
            targets[lane, :n] = sequences[lane][done[lane] + 1 : done[lane] + n + 1]
            done[lane] += n
        scored = torch.tensor(step)
        window = Window(ids, scored, scored, width)
        with torch.no_grad():
            shape = (len(sequences), width, method.model.vocab_size)
            scores = as_scores(method.score(window), shape)
            nll = token_nll(scores, lambda targets=targets: targets, window.mask)
            method.adapt(window, targets, nll)
        for lane, n in enumerate(step):
            losses[lane].append(nll[lane, :n])
    return [torch.cat(pieces).numpy() for pieces in losses]


@pytest.mark.parametrize(("name", "params"), METHODS, ids=NAMES)
def test_each_lane_reads_as_it_would_alone(model, sequences, name, params):
    together = read(make_method(model, name, 3, **params), sequences, COUNTS, CHUNK)
    for lane, losses in enumerate(together):
        counts = [(step[lane],) for step in COUNTS if step[lane] > 0]
        alone = read(make_method(model, name, 1, **params), [sequences[lane]], counts)
        np.testing.assert_allclose(losses, alone[0], atol=1e-6)


@pytest.mark.parametrize(("name", "params"), METHODS, ids=NAMES)
def test_state_stays_where_it_is(model, sequences, name, params):
    method = make_method(model, name, 3, **params)
    places = {key: value.data_ptr() for key, value in method.state.items()}
    fresh = {key: value.clone() for key, value in method.state.items()}
    read(method, sequences, COUNTS, CHUNK)
    assert all(not torch.equal(value, fresh[key]) for key, value in method.state.items())
    for lane in range(3):
        method.reset(lane)
    assert {key: value.data_ptr() for key, value in method.state.items()} == places
    assert all(torch.equal(value, fresh[key]) for key, value in method.state.items())


@pytest.mark.parametrize(("name", "params"), METHODS, ids=NAMES)
def test_an_idle_lane_keeps_its_state_bit_for_bit(model, sequences, name, params):
    method = make_method(model, name, 3, **params)
    read(method, sequences, COUNTS[:1], CHUNK)
    held = {key: value[1].clone() for key, value in method.state.items()}
    read(method, sequences, [(8, 0, 8)], CHUNK)
    assert all(torch.equal(value[1], held[key]) for key, value in method.state.items())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *METHODS[1:3],
        pytest.param("output-correction", {"slow_ridge": 0.5, "fast_ridge": 3.0}, marks=slow),
        *(pytest.param(name, {"weights": "random"}, marks=slow) for name in READ),
    ],
)
def test_compiled_methods_read_the_same_and_keep_their_state_in_place(
    model, sequences, name, params, monkeypatch
):
    plain, compiled = (make_method(model, name, 3, **params) for _ in range(2))
    # A backend without code generation: what is tested is what was traced.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled.compile()
    places = {key: value.data_ptr() for key, value in compiled.state.items()}
    expected = read(plain, sequences, COUNTS, CHUNK)
    found = read(compiled, sequences, COUNTS, CHUNK)
    for losses, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(losses, wanted, atol=1e-6)
    assert {key: value.data_ptr() for key, value in compiled.state.items()} == places
    for key, value in plain.state.items():
        torch.testing.assert_close(compiled.state[key], value, rtol=0, atol=1e-11)


class Questions(TorchDispatchMode):
    """Notes operations that hand a value, or a size that depends on values, to the host."""

    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or any(word in name for word in self.ASKING):
            self.asked.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "params"), METHODS, ids=NAMES)
def test_a_step_asks_the_device_nothing_beside_the_model(model, name, params, monkeypatch):
    if name == "window":
        capture(monkeypatch)
    if name == "ngram":
        monkeypatch.setattr("tta_bench_methods.output.ngram.method.on_host", lambda tensor: False)
    method = make_method(model, name, 3, **params)
    ids = torch.randint(3, 90, (3, CHUNK))
    scored = torch.tensor([8, 3, 0])
    window = Window(ids, scored, scored, CHUNK)
    with torch.no_grad(), Questions() as of_model:
        model.logits(window)  # transformers looks whether several texts are packed into a row
    with torch.no_grad(), Questions() as questions:
        method.score(window).full()
        method.adapt(window, ids, torch.zeros(3, CHUNK))
    assert Counter(questions.asked) <= Counter(of_model.asked)


def capture(monkeypatch):
    """Makes `window` take the shape that it has while a CUDA graph is captured."""
    monkeypatch.setattr("tta_bench_methods.context.window.capturing", lambda tensor: True)


# --- references: each position by itself -----------------------------------------------------


def test_the_window_reads_the_last_tokens_again(model, sequences, monkeypatch):
    expected = []
    for lane, sequence in enumerate(sequences):
        losses, done = [], 0
        for n in (step[lane] for step in COUNTS):
            ids = sequence[max(0, done - 6) : done + n]
            logits = model.net(ids[None]).logits[0, len(ids) - n :] if n else torch.zeros(0, 97)
            targets = sequence[done + 1 : done + n + 1]
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
            done += n
        expected.append(torch.cat(losses).numpy())
    for captured in (False, True):
        if captured:
            capture(monkeypatch)
        found = read(make_method(model, "window", 3, context=6), sequences, COUNTS, CHUNK)
        for losses, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(losses, wanted, atol=1e-5)


def test_fwl_reads_each_lane_as_in_one_shot(model, sequences):
    """With half-lives: padding beside a lane must not count as time that passes."""
    method = make_method(model, "fwl", 3, weights="random")
    found = read(method, sequences, COUNTS, CHUNK)
    for lane, sequence in enumerate(sequences):
        pieces = sequence[:-1].split([step[lane] for step in COUNTS if step[lane] > 0])
        with torch.no_grad():
            hidden = torch.cat([model.body(piece[None]) for piece in pieces], dim=1)
            labels = sequence[None, 1:]
            logits, after = method.head(
                hidden,
                labels,
                torch.ones_like(labels, dtype=torch.bool),
                method.unembedding,
                method.head.fresh_state(1),
            )
            expected = torch.nn.functional.cross_entropy(
                model.unembed(logits)[0], labels[0], reduction="none"
            )
        np.testing.assert_allclose(found[lane], expected.numpy(), atol=1e-5)
        for key, value in after.items():
            torch.testing.assert_close(method.state[key][lane], value[0], rtol=0, atol=1e-11)
