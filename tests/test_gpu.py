"""On a GPU: lanes are strangers there, too, and compiled code gives what plain code gives.

It prints by how much losses move (`pytest -s`): that is the noise floor of a comparison.
"""

import numpy as np
import pytest
import torch
from tiny import PREFIX, make_method, random_document, run_method

from tta_bench import Method
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.streams import full_step
from tta_bench.model.load import load_model
from tta_bench.model.scores import DenseLogits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CHUNK = Protocol(chunk=256)
LENGTHS = (1500, 700, 1024, 300)
MEAN = {"float32": 1e-5, "bfloat16": 5e-3}
"""Largest shift of a run's mean loss, in nats per token."""

METHODS = [
    ("none", {}),
    ("window", {"context": "256"}),
    ("neural-cache", {}),
    ("fwl", {}),
    ("dynamic-eval", {}),
    ("dynamic-eval", {"subset": "lora"}),
    ("dynamic-eval", {"optimizer": "sgd", "clip": "1.0", "interval": "512"}),
]


def moved(one, other):
    """Largest shift of a token's loss, and the shift of the mean."""
    a, b = (np.concatenate([losses[key] for key in sorted(losses)]) for losses in (one, other))
    return abs(a - b).max(), abs(a.mean(dtype="float64") - b.mean(dtype="float64"))


@pytest.fixture(scope="module", params=MEAN)
def model(request):
    return load_model("builtin:tiny", request.param, "cuda")


@pytest.mark.parametrize(("name", "params"), METHODS)
def test_neither_lanes_nor_compilation_move_the_mean(model, name, params):
    documents = [random_document(f"d{i}", length, i) for i, length in enumerate(LENGTHS)]
    model.compiled = False
    alone, together = (
        run_method(make_method(model, name, lanes, **params), documents, CHUNK) for lanes in (1, 3)
    )
    method = make_method(model, name, 3, **params)
    engine = Engine(method, CHUNK, PREFIX, debug=True, compile=True, longest=max(LENGTHS))
    engine.warm_up(full_step(CHUNK, max(LENGTHS)))
    compiled = {result.document.key: result.nll for result in engine.run(documents)}
    model.compiled = False
    assert (engine.cuda_graph is not None) == method.graphs
    shifts = {"lanes": moved(alone, together), "compiled": moved(together, compiled)}
    print(f"{model.dtype} {name} {params}: {shifts}")
    for largest_and_mean in shifts.values():
        assert largest_and_mean[1] < MEAN[str(model.dtype).removeprefix("torch.")]


class Overwriting(Method):
    """The frozen model, which overwrites all that it was given."""

    graphs = True

    def score(self, window):
        logits = DenseLogits(self.model.logits(window).full())
        for given in (window.mask, window.input_ids, window.lengths, window.scored):
            given.zero_()
        return logits

    def adapt(self, window, targets, nll):
        targets.zero_()
        nll.zero_()


def test_a_captured_step_hands_out_copies(model):
    documents = [random_document(f"d{i}", length, i) for i, length in enumerate(LENGTHS)]
    losses = []
    for method in (make_method(model, "none", 3), Overwriting(model, None, 3)):
        engine = Engine(method, CHUNK, PREFIX, debug=True, compile=True, longest=max(LENGTHS))
        engine.warm_up(full_step(CHUNK, max(LENGTHS)))
        assert engine.cuda_graph is not None
        losses.append({result.document.key: result.nll for result in engine.run(documents)})
    model.compiled = False
    assert moved(*losses)[1] < MEAN[str(model.dtype).removeprefix("torch.")]
