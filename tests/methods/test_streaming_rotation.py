"""How a model turns its keys: found on the model, undone, and done again."""

import numpy as np
import pytest
import torch
import transformers
from tiny import make_method, random_document, run_method, tiny_model
from transformers import AutoModelForCausalLM

from tta_bench.engine.protocol import Protocol
from tta_bench.model.language_model import LanguageModel
from tta_bench_methods.context.streaming_llm.rotation import carried_by

ROTARY = {
    "cohere": {"logit_scale": 1.0},
    "glm": {"head_dim": 8},
    "phi": {},
    "llama": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 1e4,
        }
    },
}


def small(family, **options):
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=260,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )
    torch.manual_seed(0)
    return LanguageModel(AutoModelForCausalLM.from_config(config).float(), None, family)


def streamed_and_whole(model, length, chunk, **params):
    """Losses of a document read in chunks, and read at once."""
    document = random_document("a", length, 2)
    streaming, none = make_method(model, "streaming-llm", **params), make_method(model, "none")
    found = run_method(streaming, [document], Protocol(chunk=chunk))["a"]
    return found, run_method(none, [document], Protocol(chunk=length))["a"]


@pytest.mark.parametrize("family", [*ROTARY, "qwen3", "gpt-neox", "gemma3"])
def test_it_finds_how_a_model_turns_its_keys(family):
    """With slots for the whole document it is the model on that document."""
    model = small(family, **ROTARY[family]) if family in ROTARY else tiny_model(family)
    carried = carried_by(model)
    keys = torch.randn(2, *carried.keys[:2], 5, carried.keys[2])
    places = torch.tensor([[0, 1, 2, 3, 4], [90, 91, 92, 93, 7]])
    turned = carried.rotation.turn(keys, places)
    torch.testing.assert_close(carried.rotation.turn_back(turned, places), keys)
    found, whole = streamed_and_whole(model, 60, 16, sinks=4, recent=60)
    np.testing.assert_allclose(found, whole, rtol=0, atol=2e-4)


def test_more_slots_than_a_model_has_positions_hold_a_document_that_fits():
    model = small("llama")
    found, whole = streamed_and_whole(model, model.max_positions, 64, recent=100_000)
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-3)
