"""Other tools' protocols reproduce what those tools print, on a real model in float32.

The model is SmolLM2-135M, which `make test` fetches before the tests start.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_method

from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.model.prefix import prefix_id

GOLDEN = Path(__file__).parents[1] / "golden" / "perplexity"
TOKENS = json.loads((GOLDEN / "token_ids.json").read_text())
REFERENCE = json.loads((GOLDEN / "reference.json").read_text())
NATS_PER_DOCUMENT = 5e-4
PERPLEXITY = 3e-4


@pytest.fixture(scope="module")
def smollm2():
    torch.set_num_threads(2)
    yield load_model("smollm2-135m", "float32", "cpu")
    torch.set_num_threads(1)


def losses(model, documents, protocol):
    cls = load("none")
    method = cls(model, build(cls.Params, {}, "none"), 1)
    found = run_method(
        method,
        [TokenizedDocument(k, np.array(v, dtype=np.int32), 0, 0, k) for k, v in documents.items()],
        protocol,
    )
    return {key: nll.sum(dtype=np.float64) for key, nll in found.items()}, found


def test_lm_eval(smollm2):
    assert prefix_id("auto", smollm2.tokenizer, smollm2.vocab_size) == 1
    reference = REFERENCE["lm-eval 0.4.13 loglikelihood_rolling, prefix token id 1"]
    sums, found = losses(smollm2, TOKENS, Protocol("lm-eval", window=512))
    expected = reference["max_length 512"]["docs"]
    for key, document in expected.items():
        assert len(found[key]) == document["tokens"]
        assert sums[key] == pytest.approx(-document["ll"], abs=NATS_PER_DOCUMENT)
    perplexity = math.exp(sum(sums.values()) / 5233)
    assert perplexity == pytest.approx(reference["max_length 512"]["token_ppl"], abs=1e-5)


def test_lm_eval_with_a_long_window(smollm2):
    reference = REFERENCE["lm-eval 0.4.13 loglikelihood_rolling, prefix token id 1"]
    key = "art1_full"  # the one document here that overlaps windows of 1024
    sums, _ = losses(smollm2, {key: TOKENS[key]}, Protocol("lm-eval", window=1024))
    expected = reference["max_length 1024"]["docs"][key]["ll"]
    assert sums[key] == pytest.approx(-expected, abs=NATS_PER_DOCUMENT)


CONCATENATED = {"concat": [token for ids in TOKENS.values() for token in ids]}


@pytest.mark.parametrize(
    ("protocol", "tool", "case", "value", "count"),
    [
        (
            Protocol("llama.cpp", window=512),
            "llama-perplexity, F32 GGUF, KV f32, -fa off, concat.txt",
            "-c 512",
            "ppl",
            "scored",
        ),
        (
            Protocol("hf-guide", window=512, stride=256),
            "Hugging Face guide, concat.txt",
            "W512 s256",
            "true_ppl",
            "N_true",
        ),
        (
            Protocol("krause", window=512),
            "dynamic-eval-gpt-2 windows, no adaptation, concat.txt",
            "block 512",
            "ppl",
            "n",
        ),
    ],
    ids=["llama.cpp", "hf-guide", "krause"],
)
def test_other_tools(smollm2, protocol, tool, case, value, count):
    sums, found = losses(smollm2, CONCATENATED, protocol)
    assert len(found["concat"]) == REFERENCE[tool][case][count]
    perplexity = math.exp(sums["concat"] / len(found["concat"]))
    assert perplexity == pytest.approx(REFERENCE[tool][case][value], abs=PERPLEXITY)
