"""The neural cache against the sum it is defined by, one position at a time."""

import math

import numpy as np
import pytest
import torch
from tiny import PREFIX, make_method, random_document, run_method

from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError


def reference(model, ids, chunk, window, theta, weight):
    """p = (1 - l) p_LM + l p_cache, written as loops over positions and remembered pairs."""
    sequence = torch.tensor([PREFIX, *ids])
    remembered, losses = [], []
    for first in range(0, len(ids), chunk):
        stop = min(first + chunk, len(ids))
        output = model.net(sequence[None, first:stop], output_hidden_states=True)
        hidden = output.hidden_states[-1][0]
        unit = hidden / hidden.norm(dim=-1, keepdim=True)
        for i in range(stop - first):
            target = int(sequence[first + i + 1])
            model_p = float(output.logits[0, i].softmax(-1)[target])
            recent = remembered[-window:]
            if recent:
                shares = [math.exp(theta * float(unit[i] @ key)) for key, _ in recent]
                match = sum(s for s, (_, y) in zip(shares, recent, strict=True) if y == target)
                model_p = (1 - weight) * model_p + weight * match / sum(shares)
            losses.append(-math.log(model_p))
            remembered.append((unit[i], target))
    return np.array(losses)


@pytest.mark.parametrize("window", [10, 1000])
@pytest.mark.parametrize("chunk", [1, 16, 64])
def test_it_is_the_mixture_of_the_paper(llama, window, chunk):
    document = random_document("a", 70, 5)
    method = make_method(llama, "neural-cache", window=window, theta=7.0, weight=0.2)
    found = run_method(method, [document], Protocol(chunk=chunk))["a"]
    expected = reference(llama, document.token_ids, chunk, window, 7.0, 0.2)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_lanes_of_other_lengths_change_nothing(llama, documents):
    method = make_method(llama, "neural-cache", lanes=3, window=20, theta=7.0, weight=0.2)
    found = run_method(method, documents, Protocol(chunk=16))
    for document in documents:
        expected = reference(llama, document.token_ids, 16, 20, 7.0, 0.2)
        np.testing.assert_allclose(found[document.key], expected, atol=1e-4)


@pytest.mark.parametrize("params", [{"window": 0}, {"weight": 1.0}, {"weight": -0.1}])
def test_wrong_parameters_get_one_sentence(llama, params):
    with pytest.raises(UsageError, match="must be at least"):
        make_method(llama, "neural-cache", **params)
