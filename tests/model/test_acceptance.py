"""What the protocol relies on, tried on models that break one property each."""

import json
import math
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import VOCAB, make_method, random_document, tiny_model
from transformers import AutoModelForCausalLM

from tta_bench import LanguageModel
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import ModelError, UsageError
from tta_bench.model.acceptance.accept import accept
from tta_bench.model.findings import CACHE, PADDING, USE
from tta_bench.model.identity import describe_model
from tta_bench.model.load import load_model, tried_model
from tta_bench.model.locate import built_in_folder
from tta_bench.model.prefix import prefix_id
from tta_bench.model.shape import load_shape
from tta_bench.model.window import Window

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
BERT = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def phi3():
    return transformers.Phi3Config(
        **SHAPE, original_max_position_embeddings=32, rope_parameters=LONGROPE
    )


def dynamic_llama():
    return transformers.LlamaConfig(
        **SHAPE | {"max_position_embeddings": 32}, rope_parameters=DYNAMIC
    )


def built(config, dtype=torch.float32, **changed):
    """A model of random weights, four times as large as drawn, with attributes of its own."""
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4.0)
    return LanguageModel(net.to(dtype), None, "tried", **changed)


def accepted(model):
    accept(model)
    return model.acceptance


def outcomes(acceptance):
    return {finding.name: finding.outcome for finding in acceptance.findings}


@pytest.fixture
def folder(tmp_path):
    """The built-in model in a folder of its own, to be damaged."""
    for file in built_in_folder("tiny").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_weights(folder, change):
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# Models as they should be


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_a_causal_model_passes_everything(family, dtype):
    acceptance = accepted(tiny_model(family, dtype))
    assert set(outcomes(acceptance).values()) == {"ok"}
    assert acceptance.usable
    assert not acceptance.forbids(CACHE)


def test_the_built_in_model_is_tried_as_it_is_loaded_and_that_is_recorded():
    model = load_model("builtin:tiny", "float32", "cpu")
    found = outcomes(model.acceptance)
    names = "all weights, finite weights, finite losses, lanes apart, causality, carried keys"
    assert ", ".join(found) == names
    assert set(found.values()) == {"ok"}
    recorded = describe_model(model)["acceptance"]
    assert recorded["causality"] == {
        "outcome": "ok",
        "detail": "predicts the same, whatever comes later",
    }
    assert "acceptance" not in describe_model(load_shape("builtin:tiny"))


def test_a_model_that_was_not_tried_forbids_nothing():
    model = tiny_model()
    assert model.acceptance.findings == ()
    model.acceptance.require(USE, "m")
    model.acceptance.require(CACHE, "m")


def test_a_copy_keeps_what_was_found():
    model = built(transformers.MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2))
    accept(model)
    assert model.with_weights({}).acceptance is model.acceptance


# Models that see what comes later


@pytest.mark.parametrize(
    "config",
    [
        transformers.LlamaConfig(**SHAPE, is_causal=False),
        transformers.BertConfig(**BERT),
        transformers.Gemma3TextConfig(**SHAPE, head_dim=8, use_bidirectional_attention=True),
    ],
    ids=["llama", "bert", "gemma3"],
)
def test_a_model_that_sees_the_future_is_refused(config):
    acceptance = accepted(built(config))
    assert outcomes(acceptance)["causality"] == "failed"
    with pytest.raises(ModelError, match="m is no causal language model: later tokens"):
        acceptance.require(USE, "m")


def test_a_folder_that_sees_the_future_is_refused_as_it_is_loaded(folder):
    change_config(folder, is_causal=False)
    with pytest.raises(ModelError, match="is no causal language model"):
        load_model(str(folder), "float32", "cpu")


# Carried keys


@pytest.mark.parametrize(
    "config",
    [
        transformers.MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2),
        transformers.RwkvConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2),
        phi3(),
        dynamic_llama(),
    ],
    ids=["mamba", "rwkv", "phi3", "dynamic"],
)
def test_a_model_that_cannot_carry_keys_says_what_works_still(config):
    acceptance = accepted(built(config))
    assert acceptance.usable
    with pytest.raises(ModelError, match=r"m cannot carry keys.*--context-mode recompute is"):
        acceptance.require(CACHE, "m")


class Forgetful(LanguageModel):
    """Attends to all carried keys, whatever the sliding window."""

    def _read(self, window, weights):
        reach = self.config.sliding_window
        self.config.sliding_window = reach if window.past is None else None
        try:
            return super()._read(window, weights)
        finally:
            self.config.sliding_window = reach


def test_keys_beyond_a_sliding_window_are_reached():
    config = transformers.MistralConfig(**SHAPE, sliding_window=40)
    model = Forgetful(built(config).net, None, "forgetful")
    finding = accepted(model).forbids(CACHE)
    assert finding is not None
    assert "otherwise than the whole" in finding.detail


def test_a_window_that_is_too_long_to_be_reached_is_said():
    config = transformers.MistralConfig(**SHAPE, sliding_window=400_000)
    (finding,) = [f for f in accepted(built(config)).findings if f.name == "carried keys"]
    assert finding.detail.endswith("which is within its attention window of 400000")


@pytest.mark.parametrize("command", ["plan", "eval"])
def test_a_model_with_a_state_is_refused_a_cache_without_its_weights(tta_bench, tmp_path, command):
    config = transformers.MambaConfig(vocab_size=4096, hidden_size=32, num_hidden_layers=2)
    config.architectures = ["MambaForCausalLM"]
    config.save_pretrained(tmp_path)
    (tmp_path / "text.txt").write_text("There was a house by the sea. " * 20)
    model = ("--model", "config:config.json", "--device", "cpu")
    words = ("--dataset", "text.txt", "--method", "none", "--chunk", 16)
    cached = ("--context", 16, "--context-mode", "cache")
    done = tta_bench(command, *model, *words, *cached, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot carry keys and values from chunk to chunk" in done.stderr
    if command == "plan":
        assert tta_bench(command, *model, *words, cwd=tmp_path).returncode == 0


def test_context_mode_cache_is_refused_in_one_sentence(tta_bench, tmp_path, folder):
    change_config(folder, rope_parameters=DYNAMIC)
    text = tmp_path / "text.txt"
    text.write_text("There was a house by the sea. " * 20)
    words = ("eval", "--model", folder, "--dataset", text, "--method", "none", "--device", "cpu")
    cached = ("--chunk", 16, "--context", 16, "--context-mode", "cache")
    done = tta_bench(*words, *cached, cwd=tmp_path)
    assert done.returncode == 2
    advice = "--context-mode cache is not possible with it, --context-mode recompute is."
    assert advice in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


# Rotary factors that depend on the width of a window


def test_a_document_does_not_depend_on_its_neighbours_or_on_what_was_read_before():
    model = built(phi3(), torch.float64)
    short = random_document("short", 25, 1)
    documents = [random_document("long", 90, 2), short, random_document("longer", 120, 3)]

    def losses(given, lanes, chunk=64, compile=False):
        method = make_method(model, "none", lanes)
        engine = Engine(method, Protocol(chunk=chunk), None, debug=True, compile=compile)
        return {result.document.key: result.nll for result in engine.run(given)}

    alone = losses([short], 1)["short"]
    for lanes, compile in ((1, False), (2, False), (3, True)):
        beside = losses(documents, lanes, compile=compile)["short"]
        assert abs(beside - alone).max() < 1e-6  # losses are kept in float32
    assert losses([short], 1)["short"].tolist() == alone.tolist()


@pytest.mark.parametrize("config", [phi3(), dynamic_llama()], ids=["longrope", "dynamic"])
def test_long_windows_leave_no_state_behind(config):
    model = built(config)
    before = {name: value.clone() for name, value in model.net.named_buffers()}
    ids = torch.randint(VOCAB, (1, 200))
    with torch.inference_mode():
        first = model.net(ids[:, :20]).logits
        long = model.net(ids).logits
        assert torch.equal(model.net(ids[:, :20]).logits, first)
        assert not torch.allclose(long[:, :20], first, atol=1e-3)  # there are other factors
    assert all(torch.equal(value, before[name]) for name, value in model.net.named_buffers())
    model.net(ids)  # what was read in inference mode does not stand in the way of gradients


def test_other_models_have_no_hooks():
    """They would stand in the way of compiled code."""
    modules = built(transformers.LlamaConfig(**SHAPE)).net.modules()
    assert not any(module._forward_hooks for module in modules)


def test_such_a_model_is_read_lane_by_lane_and_its_runs_say_so():
    model = built(phi3())
    assert model.reads_alone
    acceptance = accepted(model)
    assert acceptance.usable
    assert acceptance.forbids(PADDING)
    (remark,) = acceptance.remarks
    assert "one after another, without padding and uncompiled" in remark


class Crowded(transformers.LlamaForCausalLM):
    """Predicts otherwise beside others: a batch shares what it was normalised by."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits / output.logits.abs().max()
        return output


def test_a_model_that_sees_its_neighbours_is_read_lane_by_lane():
    net = built(transformers.LlamaConfig(**SHAPE)).net
    net.__class__ = Crowded
    model = LanguageModel(net, None, "crowded")
    assert not model.reads_alone
    assert not accepted(model).usable  # the largest logit of a window may lie in the future
    assert model.reads_alone
    ids = torch.randint(VOCAB, (2, 20))
    window = Window(ids, torch.tensor([20, 9]), torch.tensor([20, 9]), 20)
    own = net(ids[1:, :9]).logits
    assert torch.equal(model.logits(window).full()[1:, :9], own)


# Weights


def test_a_weight_that_is_missing_is_an_error(folder):
    change_weights(folder, lambda weights: weights.pop("model.layers.3.mlp.down_proj.weight"))
    with pytest.raises(ModelError, match=r"lacks weights in its files \(model.layers.3.mlp.down_p"):
        load_model(str(folder), "float32", "cpu")


def test_a_head_that_is_missing_is_an_error(folder):
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lacks weights in its files \(lm_head.weight\)"):
        load_model(str(folder), "float32", "cpu")


def test_a_weight_of_another_shape_is_an_error_that_names_it(folder):
    def cut(weights):
        weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()

    change_weights(folder, cut)
    with pytest.raises(ModelError, match=r"model.norm.weight is 191 there and 192 here"):
        load_model(str(folder), "float32", "cpu")


def test_what_files_hold_beside_the_weights_is_a_remark(folder):
    def add(weights):
        weights |= {f"vision.{name}.weight": torch.ones(2) for name in "abcde"}

    change_weights(folder, add)
    model = load_model(str(folder), "float32", "cpu")
    (remark,) = model.acceptance.remarks
    assert "vision.a.weight, vision.b.weight, vision.c.weight and 2 more" in remark


def test_weights_that_are_no_numbers_are_refused(folder):
    def spoil(weights):
        weights["model.norm.weight"][3] = math.nan

    change_weights(folder, spoil)
    with pytest.raises(ModelError, match=r"weights that are not finite in float32 \(model.norm.we"):
        load_model(str(folder), "float32", "cpu")


def test_weights_beyond_the_range_of_float16_are_refused(folder):
    def enlarge(weights):
        weights["model.norm.weight"][3] = 1e6

    change_weights(folder, enlarge)
    assert load_model(str(folder), "float32", "cpu").acceptance.usable
    with pytest.raises(ModelError, match=r"not finite in float16.*use --dtype bfloat16 or float32"):
        load_model(str(folder), "float16", "cpu")


def test_finite_weights_whose_losses_are_not_are_refused(folder):
    def enlarge(weights):
        weights["model.layers.0.mlp.down_proj.weight"] *= 2e4

    change_weights(folder, enlarge)
    with pytest.raises(ModelError, match="losses that are not finite in float16, from weights th"):
        load_model(str(folder), "float16", "cpu")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_a_models_own_weights_is_never_ignored(folder, name):
    (folder / name).write_text("{}")
    for load in (load_model, load_shape):
        with pytest.raises(ModelError, match=r"holds both a model .* and an adapter"):
            load(str(folder))


# Sizes


def test_a_prefix_beyond_the_vocabulary_is_told_before_anything_is_read():
    class Tokenizer:
        bos_token_id, eos_token_id = 32000, None

    for kind in ("auto", "bos"):
        with pytest.raises(UsageError, match=r"bos token has the id 32000.*below 260"):
            prefix_id(kind, Tokenizer, VOCAB)


def test_ids_beyond_the_embedding_are_told_before_the_first_step(tta_bench, tmp_path, folder):
    def cut(weights):
        weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:300].clone()

    change_weights(folder, cut)
    change_config(folder, vocab_size=300)
    text = tmp_path / "text.txt"
    text.write_text("There was a house by the sea. " * 20)
    words = ("eval", "--model", folder, "--dataset", text, "--method", "none", "--device", "cpu")
    done = tta_bench(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "knows those below 300: give it the tokenizer that belongs to it" in done.stderr
    done = tta_bench("check-model", folder, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0
    last = " ".join(done.stdout.split())
    assert re.search(r"usable\. The tokenizer has ids up to 4,\d+ and the model .* 300:", last)
    assert not re.search(r"\bfailed\b", last)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (transformers.MptConfig(vocab_size=VOCAB, d_model=32, n_layers=1, max_seq_len=128), 128),
        (transformers.GPT2Config(vocab_size=VOCAB, n_embd=48, n_layer=1, n_positions=64), 64),
        (transformers.LlamaConfig(**SHAPE | {"max_position_embeddings": -1}), None),
    ],
    ids=["mpt", "gpt2", "none"],
)
def test_positions_by_any_name(config, positions):
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config)
    model = LanguageModel.__new__(LanguageModel)
    model.net = net
    assert model.max_positions == positions


# The command


def test_check_model_prints_a_table(tta_bench, tmp_path):
    done = tta_bench("check-model", "builtin:tiny", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count(" ok ") == 6
    assert done.stdout.endswith("builtin:tiny is usable.\n")


def test_check_model_says_why_a_model_is_refused(tta_bench, tmp_path, folder):
    change_config(folder, is_causal=False)
    done = tta_bench("check-model", folder, "--device", "cpu", "--json", cwd=tmp_path)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert not found["usable"]
    assert found["findings"]["causality"]["outcome"] == "failed"
    assert "is refused: it is no causal language model" in found["verdict"]
    assert tried_model(str(folder), "float32", "cpu").acceptance.forbids(USE)
