"""Whether a target was the most probable token: the same bit by whatever way it is computed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from tiny import PREFIX, make_method, random_document, tiny_model

from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model import scores
from tta_bench.model.scores import DenseLogits, row_top1, token_nll, token_scored
from tta_bench.validity.reader import Reader

PROTOCOL = Protocol(chunk=16)
COMPILER = torch.compile


def bits(method, documents, **options) -> dict[str, np.ndarray]:
    engine = Engine(method, PROTOCOL, PREFIX, debug=True, **options)
    return {result.document.key: result.top1 for result in engine.run(documents)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equally_probable_tokens_the_lowest_id_counts(dtype):
    rows = torch.tensor([[[0.0, 2, 2, 1], [1, 1, 1, 1], [3, 0, 0, 3.001]]], dtype=dtype)
    found = [row_top1(rows, torch.full((1, 3), token)).tolist()[0] for token in range(4)]
    close = dtype == torch.bfloat16  # there both are 3
    assert found == [
        [False, True, close],
        [True, False, False],
        [False, False, False],
        [False, False, not close],
    ]


@pytest.mark.parametrize("name", ["none", "neural-cache", "dynamic-eval"])
def test_it_is_that_of_the_whole_distribution(llama, documents, name):
    rows = Reader(make_method(llama, name), PROTOCOL).read(documents)
    found = bits(make_method(llama, name, 3), documents)
    for document, predicted in zip(documents, rows, strict=True):
        expected = predicted.argmax(1).numpy() == document.token_ids
        np.testing.assert_array_equal(found[document.key], expected)
    assert any(own.any() for own in found.values())


@pytest.mark.parametrize("gradients", [False, True])
def test_slices_and_second_computations_change_nothing(monkeypatch, gradients):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 11, generator=generator).requires_grad_(gradients)
    targets = torch.randint(11, (2, 7), generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    given = DenseLogits(logits), lambda: targets, mask, gradients
    whole = token_scored(*given)
    assert not whole.top1[~mask].any()
    expected = (logits.argmax(2) == targets) & mask
    assert torch.equal(whole.top1, expected)
    assert torch.equal(whole.nll, token_nll(*given))
    monkeypatch.setattr(scores, "SLICE_BYTES", {"cpu": 2 * 11 * 4 * 2})
    monkeypatch.setattr(scores, "RETAINED_BYTES", {"cpu": 1})
    sliced = token_scored(*given)
    assert torch.equal(sliced.top1, expected)
    torch.testing.assert_close(sliced.nll, whole.nll)
    if gradients:
        one, two = (torch.autograd.grad(found.nll.sum(), logits)[0] for found in (whole, sliced))
        torch.testing.assert_close(one, two)


def test_compiled_steps_keep_the_same_bits(monkeypatch, documents):
    monkeypatch.setattr(torch, "compile", partial(COMPILER, backend="eager"))
    model = tiny_model("llama")
    expected = bits(make_method(model, "none", 2), documents)
    engine = Engine(make_method(model, "none", 2), PROTOCOL, PREFIX, compile=True, longest=64)
    engine.step.scored_of = torch.compile(engine.step.scored_of)
    found = {result.document.key: result.top1 for result in engine.run(documents)}
    for key, own in expected.items():
        np.testing.assert_array_equal(found[key], own)


def test_a_document_that_diverged_has_none(llama):
    class Broken(type(make_method(llama, "none"))):
        def score(self, window):
            return self.model.logits(window).full() * torch.nan

    engine = Engine(Broken(llama, None, 1), PROTOCOL, PREFIX)
    (result,) = engine.run([random_document("d", 20, 0)])
    assert (result.status, result.nll, result.top1) == ("diverged", None, None)
