"""The split into body and unembedding, and the carried keys and values, on every family."""

import pytest
import torch
from architectures import tiny_net
from tiny import FAMILIES, VOCAB, make_method, tiny_model
from transformers import AutoModelForCausalLM, BartConfig, LlamaConfig

from tta_bench import LanguageModel
from tta_bench.errors import ModelError, UsageError
from tta_bench.model.cache import LaneCache
from tta_bench.model.load import load_model
from tta_bench.model.window import Window


def window_of(ids, past=None):
    lengths = torch.full((ids.shape[0],), ids.shape[1])
    return Window(ids, lengths, lengths, ids.shape[1], past)


@pytest.mark.parametrize("family", FAMILIES)
def test_unembedding_the_hidden_state_gives_the_models_own_logits(family):
    model = tiny_model(family)
    ids = torch.randint(VOCAB, (2, 20))
    assert model.split_error is None
    ours = model.unembed(model.hidden(window_of(ids)))
    theirs = model.net(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(family):
    model = tiny_model(family)
    ids = torch.randint(VOCAB, (3, 40))
    whole = model.hidden(window_of(ids))
    past = LaneCache(3, 64, model.device)
    pieces = []
    for part in ids.split(9, dim=1):
        pieces.append(model.hidden(window_of(part, past)))
        past.commit(torch.full((3,), part.shape[1]))
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-4)


def test_a_reset_lane_sees_nothing_of_its_past(llama):
    ids = torch.randint(VOCAB, (2, 24))
    past = LaneCache(2, 64, llama.device)
    llama.hidden(window_of(ids[:, :12], past))
    past.commit(torch.tensor([12, 12]))
    past.reset(1)
    again = llama.hidden(window_of(ids[:, 12:], past))
    alone = llama.hidden(window_of(ids[1:, 12:]))
    torch.testing.assert_close(again[1:], alone, rtol=1e-4, atol=1e-4)


def test_a_reset_lane_does_not_keep_what_went_wrong(llama):
    """A masked NaN is still a NaN: 0 times it spoils every value."""
    past = LaneCache(1, 16, llama.device)
    broken = {"model.norm.weight": torch.full_like(llama.parameter("model.norm.weight"), torch.nan)}
    name = "model.layers.0.self_attn.k_proj.weight"
    broken[name] = torch.full_like(llama.parameter(name), torch.nan)
    llama.hidden(window_of(torch.randint(VOCAB, (1, 8)), past), broken)
    past.commit(torch.tensor([8]))
    past.reset(0)
    assert llama.hidden(window_of(torch.randint(VOCAB, (1, 8)), past)).isfinite().all()


def test_the_cache_holds_no_more_than_its_capacity(llama):
    past = LaneCache(1, 10, llama.device)
    for _ in range(5):
        llama.hidden(window_of(torch.randint(VOCAB, (1, 8)), past))
        past.commit(torch.tensor([8]))
    assert past.length == 10
    assert past.valid.tolist() == [10]


def test_replaced_weights_change_one_call_only(llama):
    window = window_of(torch.randint(VOCAB, (1, 10)))
    before = llama.hidden(window)
    name = "model.layers.0.mlp.down_proj.weight"
    changed = llama.hidden(window, {name: llama.parameter(name) * 2})
    assert not torch.equal(before, changed)
    assert torch.equal(before, llama.hidden(window))


def test_tied_embeddings_are_replaced_at_both_ends(llama):
    window = window_of(torch.randint(VOCAB, (1, 10)))
    doubled = {"model.embed_tokens.weight": llama.parameter("model.embed_tokens.weight") * 2}
    hidden = llama.hidden(window)
    assert torch.equal(llama.unembed(hidden, doubled), 2 * llama.unembed(hidden))


def test_a_model_that_cannot_be_split_still_scores():
    net = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            pad_token_id=0,
        )
    )
    own_forward = type(net).forward

    class Twisted(type(net)):
        def forward(self, *args, **kwargs):
            output = own_forward(self, *args, **kwargs)
            output.logits = output.logits.flip(-1)
            return output

    net.__class__ = Twisted
    model = LanguageModel(net, None, "twisted")
    window = window_of(torch.randint(VOCAB, (1, 10)))
    assert torch.equal(model.logits(window).full(), net(window.input_ids).logits)
    with pytest.raises(ModelError, match="none and dynamic-eval do"):
        model.hidden(window)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("smollm2-135", "did you mean 'smollm2-135m'"),
        ("builtin:huge", "no built-in model 'huge'"),
        ("./nowhere", "no model folder"),
        ("nowhere.gguf", "no GGUF file"),
        ("config:nowhere.json", "no configuration file"),
    ],
)
def test_unknown_models_get_one_sentence(spec, words):
    with pytest.raises(ModelError, match=words):
        load_model(spec, device="cpu")


def test_unknown_devices_and_dtypes_get_one_sentence():
    with pytest.raises(UsageError, match="not a device"):
        load_model("builtin:tiny", device="abacus")
    with pytest.raises(UsageError, match="not a dtype"):
        load_model("builtin:tiny", device="cpu", dtype="float12")


def test_a_saved_folder_loads_with_its_hash(tmp_path):
    from tta_bench.model.locate import built_in_folder

    model = load_model(str(built_in_folder("tiny")), device="cpu")
    assert len(model.provenance["sha256"]["model.safetensors"]) == 64
    assert not model.random_weights


def test_a_configuration_gives_random_weights(tmp_path):
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    (tmp_path / "config.json").write_text(config.to_json_string())
    model = load_model(f"config:{tmp_path / 'config.json'}", device="cpu")
    assert model.random_weights
    assert model.vocab_size == 4096


def test_the_width_is_that_which_the_head_reads():
    """OPT-350m projects what its blocks compute before the head reads it."""
    net = tiny_net("opt")
    model = LanguageModel(net, None, "opt")
    assert net.config.hidden_size == 32
    assert model.hidden_size == model.hidden(window_of(torch.ones(1, 4).long())).shape[-1] == 16
    scores = make_method(model, "neural-cache").score(window_of(torch.ones(1, 4).long()))
    assert scores.full().isfinite().all()


@pytest.mark.parametrize(
    ("kind", "positions"), [("llama", 256), ("gpt2", 256), ("mpt", 256), ("whisper", 256)]
)
def test_the_number_of_positions_by_whatever_name(kind, positions):
    assert LanguageModel(tiny_net(kind), None, kind).max_positions == positions


def test_no_limit_of_positions_is_none():
    assert LanguageModel(tiny_net("xlnet"), None, "xlnet").max_positions is None


def test_the_blocks_of_a_decoder_are_not_counted_by_its_encoder():
    config = BartConfig(
        vocab_size=VOCAB,
        d_model=32,
        encoder_layers=5,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
    )
    model = LanguageModel(AutoModelForCausalLM.from_config(config), None, "bart")
    assert len(model.layers) == model.num_layers == 2
