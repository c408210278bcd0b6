"""How a model is described, and what of the description identifies its weights."""

from __future__ import annotations

from tiny import tiny_model

from tta_bench.model.identity import describe_model, model_identity


def test_a_description_has_name_size_and_provenance() -> None:
    model = tiny_model("llama")
    model.provenance = {"source": "folder", "sha256": {"config.json": "ab"}}
    described = describe_model(model)
    assert described["name"] == model.name
    assert described["architecture"] == "LlamaForCausalLM"
    assert described["parameters"] == sum(p.numel() for p in model.net.parameters())
    assert described["random_weights"] is model.random_weights
    assert described["sha256"] == {"config.json": "ab"}


def test_hashes_and_commits_identify_a_model_whatever_its_name_is() -> None:
    for found in ({"sha256": "ab"}, {"commit": "12"}, {"config_sha256": "cd"}):
        assert model_identity({"name": "x", "revision": "main", **found}) == found
    assert model_identity({"name": "x", "revision": "v1"}) == {"name": "x", "revision": "v1"}


def test_random_weights_are_identified_by_their_seed_too() -> None:
    described = {"name": "x", "config_sha256": "cd", "random_weights": True, "seed": 3}
    assert model_identity(described) == {"config_sha256": "cd", "seed": 3}
