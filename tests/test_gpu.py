"""On a GPU: lanes are strangers there, too, and compiled code gives what plain code gives.

It prints by how much losses move (`pytest -s`): that is the noise floor of a comparison.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from fast_heads import LEARNED
from small_models import base_folder
from tiny import PREFIX, make_method, random_document, run_method

from tta_bench import Method
from tta_bench.engine.cuda_graph import WARM_UP
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.streams import full_step
from tta_bench.model.load import load_model
from tta_bench.model.loading import Loading
from tta_bench.model.scores import DenseLogits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CHUNK = Protocol(chunk=256)
LENGTHS = (1500, 700, 1024, 300)
MEAN = {"float32": 1e-5, "bfloat16": 5e-3}
"""Largest shift of a run's mean loss, in nats per token."""

METHODS = [
    ("none", {}),
    ("window", {"context": "256"}),
    ("streaming-llm", {"recent": "256"}),
    ("neural-cache", {}),
    ("ngram", {}),
    ("knn-lm", {}),
    ("knn-lm", {"k": "32"}),
    ("output-correction", {}),
    ("fwl", {}),
    *((name, {"weights": "random"}) for name in LEARNED),
    ("dynamic-eval", {}),
    ("dynamic-eval", {"subset": "lora"}),
    ("dynamic-eval", {"optimizer": "sgd", "clip": "1.0", "interval": "512"}),
]


def moved(one, other, without=0.0):
    """Largest shift of a token's loss, and the shift of the mean without a share of the tokens,
    those that moved most."""
    a, b = (np.concatenate([losses[key] for key in sorted(losses)]) for losses in (one, other))
    apart = abs(a - b)
    kept = np.argsort(apart)[: len(apart) - int(without * len(apart))]
    return apart.max(), abs(a[kept].mean(dtype="float64") - b[kept].mean(dtype="float64"))


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
    # Which neighbour of random text is the last of k turns on rounding, for a token here and there.
    few = 0.01 if "k" in params and model.dtype == torch.bfloat16 else 0.0
    shifts = {"lanes": moved(alone, together, few), "compiled": moved(together, compiled, few)}
    print(f"{model.dtype} {name} {params}: {shifts}")
    for largest_and_mean in shifts.values():
        assert largest_and_mean[1] < MEAN[str(model.dtype).removeprefix("torch.")]


def test_captured_steps_tell_the_most_probable_tokens(model):
    """Whatever has more than half of the probability is the most probable token."""
    documents = [random_document(f"d{i}", length, i) for i, length in enumerate(LENGTHS)]
    engine = Engine(make_method(model, "ngram", 3), CHUNK, PREFIX, compile=True, longest=1500)
    engine.warm_up(full_step(CHUNK, max(LENGTHS)))
    results = list(engine.run(documents))
    model.compiled = False
    for result in results:
        assert result.top1[result.nll < 0.69].all()
        assert not result.top1[result.nll > np.log(model.vocab_size) + 0.01].any()
        assert 0 < result.top1.mean() < 1


class Boosting(Method):
    """Log-probabilities that sum to one in the steps of the warm-up and in no later one."""

    graphs = True

    def score(self, window):
        if not hasattr(self, "steps"):
            self.steps = torch.zeros((), device=self.model.device)
        self.steps += 1
        boost = 0.1 * (self.steps > 1 + WARM_UP)
        scores = DenseLogits(self.model.logits(window).full().float().log_softmax(-1) + boost)
        scores.normalised = True
        return scores


def test_probabilities_of_a_captured_step_must_sum_to_one(model):
    engine = Engine(Boosting(model, None, 1), CHUNK, PREFIX, compile=True, longest=1024)
    engine.warm_up(full_step(CHUNK, 1024))
    model.compiled = False
    assert engine.cuda_graph is not None
    (result,) = engine.run([random_document("a", 1024, 0)])
    assert result.status == "error"
    assert "do not sum to one" in result.reason


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


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_a_rounded_model_reads_lanes_and_pieces_alike(load_in, tmp_path):
    folder = str(base_folder(tmp_path / "base"))
    whole, rounded = (
        load_model(folder, "bfloat16", "cuda", False, Loading(load_in=how))
        for how in (None, load_in)
    )
    assert {finding.outcome for finding in rounded.acceptance.findings} == {"ok"}
    assert rounded.fixed == f"holds its weights in {load_in[0]} bits (bitsandbytes)"
    documents = [random_document(f"d{i}", length, i) for i, length in enumerate((300, 200, 256))]
    protocol = Protocol(chunk=64)
    for name in ("none", "neural-cache", "fwl-untrained"):
        alone, together = (
            run_method(make_method(rounded, name, lanes), documents, protocol) for lanes in (1, 3)
        )
        full = run_method(make_method(whole, name), documents, protocol)
        assert moved(alone, together)[1] < MEAN["bfloat16"]
        assert moved(alone, full)[1] < 0.5


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_two_gpus_reads_as_on_one(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    folder = str(base_folder(tmp_path / "base", tie_word_embeddings=False))
    own = AutoModelForCausalLM.from_pretrained
    names = ("model.embed_tokens", "model.rotary_emb", "model.layers.0")
    where = dict.fromkeys(names, 0)
    where |= dict.fromkeys(("model.layers.1", "model.norm", "lm_head"), 1)

    def spread(path, **options):  # one GPU would hold so small a model
        if options.get("device_map") == "auto":
            options |= {"device_map": where}
        return own(path, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spread)
    one, two = (
        load_model(folder, "float32", loading=Loading(device_map=how)) for how in (None, "auto")
    )
    assert two.spread_over == ["cuda:0", "cuda:1"]
    assert two.device == torch.device("cuda", 0)
    documents = [random_document(f"d{i}", length, i) for i, length in enumerate((300, 200, 256))]
    cached = Protocol(chunk=64, context=64, context_mode="cache")
    for name in ("none", "neural-cache", "fwl-untrained", "regression"):
        for protocol in (Protocol(chunk=64), cached):
            ours, theirs = (
                run_method(make_method(model, name, 2), documents, protocol) for model in (two, one)
            )
            assert moved(ours, theirs)[1] < MEAN["float32"]
