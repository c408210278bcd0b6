"""TinT: the authors' numbers, a plain loop over blocks, and a stream as blocks."""

import copy

import numpy as np
import pytest
import torch
from golden import golden
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from torch.nn import functional as F

from tta_bench import StepShape, UsageError, Window
from tta_bench.contract.choice import choose
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.model.language_model import LanguageModel

CHUNK = 16
KINDS = ("tint", "held", "exact")


def gpt2_of(arrays):
    """The GPT-2 of a file, in float64."""
    from transformers import GPT2Config, GPT2LMHeadModel

    width, heads, layers, vocabulary, _, _, _, positions = map(int, arrays["meta"][:8])
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads
    )
    net = GPT2LMHeadModel(config).double()
    with torch.no_grad():
        for name, value in net.transformer.named_parameters():
            value.copy_(torch.from_numpy(arrays[f"param.{name}"]))
    return LanguageModel(net, None, "golden")


def adapted(arrays, gradient):
    """The model, the block, and its weights after the step."""
    model = gpt2_of(arrays)
    updated, _, length, train, lanes = map(int, arrays["meta"][6:])
    settings = {"lr": float(arrays["inner_lr"]), "layers": updated, "gradient": gradient}
    method = make_method(model, "tint", lanes, context=0, **settings)
    ids, ones = torch.from_numpy(arrays["ids"]), torch.ones(lanes, dtype=torch.int64)
    block = Window(ids, length * ones, (length - train + 1) * ones, length - train + 1)
    whole = Window(ids, length * ones, length * ones, length)
    weights = method.adapted(block)
    return model, weights, model.logits(whole, weights).full()


@pytest.mark.parametrize("path", golden("tint"))
def test_weights_and_logits_are_those_of_the_authors(path):
    arrays = np.load(path, allow_pickle=False)
    model, weights, logits = adapted(arrays, "tint")
    np.testing.assert_allclose(logits, arrays["final_logits"], rtol=0, atol=1e-9)
    width, seen = model.hidden_size, set()
    for key in arrays.files:
        if not key.startswith("official_upd."):
            continue
        *block, part = key.removeprefix("official_upd.").split(".")
        place = ".".join(["transformer", *block])
        names = {
            "Wv": "attn.c_attn.weight",
            "bv": "attn.c_attn.bias",
            "Wo": "attn.c_proj.weight",
            "bo": "attn.c_proj.bias",
            "Wfc": "mlp.c_fc.weight",
            "bfc": "mlp.c_fc.bias",
            "Wproj": "mlp.c_proj.weight",
            "bproj": "mlp.c_proj.bias",
            "ln1_b": "ln_1.bias",
            "ln2_b": "ln_2.bias",
            "bias": "bias",
        }
        name = f"{place}.{names[part]}"
        expected = torch.from_numpy(arrays[key])
        value = weights.get(name, model.parameter(name)[None])
        value = value[..., 2 * width :] if "c_attn" in name else value
        value = value.mT if part.startswith("W") else value
        torch.testing.assert_close(value.expand_as(expected), expected, rtol=0, atol=1e-9)
        seen.add(name)
    assert set(weights) <= seen
    for name, value in weights.items():  # queries and keys stay
        if "c_attn" in name:
            own = model.parameter(name)[..., : 2 * width]
            assert (value[..., : 2 * width] == own).all()


@pytest.mark.parametrize("path", golden("tint"))
def test_with_exact_jacobians_it_is_autograd_with_held_attention(path):
    arrays = np.load(path, allow_pickle=False)
    _, _, logits = adapted(arrays, "held")
    expected = arrays["final_logits_exact_jacobian"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - arrays["final_logits"]).max() > 1e-5


def moved(name):
    frozen = ("q_proj", "k_proj", "embed", "norm.weight", "layernorm.weight", "ln_", "wte", "wpe")
    return not any(part in name for part in frozen) or name.endswith(
        ("ln_1.bias", "ln_2.bias", "ln_f.bias")
    )


def blocks_in_a_loop(model, ids, lr, context):
    """The plain gradient of each block's prefix, a fresh copy of the net for each block."""
    sequence, losses = torch.tensor([PREFIX, *ids]), []
    for first in range(0, len(ids), CHUNK):
        stop, begin = min(first + CHUNK, len(ids)), max(0, first - context)
        net = copy.deepcopy(model.net).requires_grad_(True)
        if begin < first:
            logits = net(sequence[None, begin:first]).logits[0]
            loss = F.cross_entropy(logits, sequence[begin + 1 : first + 1], reduction="sum")
            loss.backward()
            with torch.no_grad():
                for name, value in net.named_parameters():
                    if moved(name):
                        if "c_attn" in name:
                            value.grad[..., : 2 * model.hidden_size] = 0
                        value -= lr * value.grad
        logits = net(sequence[None, begin:stop]).logits[0, first - begin :]
        losses.append(F.cross_entropy(logits, sequence[first + 1 : stop + 1], reduction="none"))
    return torch.cat(losses).detach().numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_stream_is_a_loop_over_blocks(family, lanes):
    model = tiny_model(family)
    documents = [random_document(key, length, 1) for key, length in (("a", 60), ("b", 37))]
    method = make_method(model, "tint", lanes, lr=1e-3, context=20, gradient="exact")
    for key, losses in run_method(method, documents).items():
        (own,) = (d.token_ids for d in documents if d.key == key)
        expected = blocks_in_a_loop(model, own, 1e-3, 20)
        np.testing.assert_allclose(losses, expected, atol=5e-4)


@pytest.mark.parametrize("gradient", KINDS)
def test_what_it_reads_may_be_the_protocols_or_a_methods(llama, gradient):
    document = random_document("a", 70, 1)
    options = f"lr=1e-3,gradient={gradient}"
    losses = {}
    for spec, protocol in (
        (f"tint:context=24,{options}", Protocol(chunk=CHUNK)),
        (f"window:context=24+tint:context=0,{options}", Protocol(chunk=CHUNK)),
        (f"tint:context=0,{options}", Protocol(chunk=CHUNK, context=24, context_mode="recompute")),
    ):
        choice = choose(spec)
        method = choice.cls(llama, choice.params, 1)
        losses[spec] = run_method(method, [document], protocol)["a"]
    first, *others = losses.values()
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


@pytest.mark.parametrize("gradient", KINDS)
def test_differences_are_close_to_the_gradient_and_it_learns(llama, gradient):
    document = random_document("a", 120, 2)
    plain = run_method(make_method(llama, "window", context=48), [document])["a"]
    method = make_method(llama, "tint", lr=1e-3, context=48, gradient=gradient)
    assert run_method(method, [document])["a"][CHUNK:].mean() < plain[CHUNK:].mean()
    assert not llama.layers[0].mlp.act_fn._forward_hooks  # taken off again


def test_without_a_step_it_is_what_it_reads(llama):
    document = random_document("a", 70, 1)
    for off, spec in (
        ({"lr": 0, "context": 0}, "none"),
        ({"lr": 0, "context": 24}, "window:context=24"),
    ):
        choice = choose(spec)
        expected = run_method(choice.cls(llama, choice.params, 1), [document])["a"]
        assert np.array_equal(
            run_method(make_method(llama, "tint", **off), [document])["a"], expected
        )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [f"gradient={kind}" for kind in KINDS] + ["layers=2", "lr=0"])
def test_its_formula_is_what_is_counted(family, options):
    choice = choose(f"tint:context=24,{options}")
    method = choice.cls(tiny_model(family), choice.params, 2)
    report = check_flops(method, StepShape(CHUNK, CHUNK, 0), "tint", steps=3)
    assert report.counted == pytest.approx(report.analytic, rel=0.02)


def test_only_tokens_are_kept(llama):
    assert make_method(llama, "tint", context=24).state_bytes() == 8 * 25


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"lr": -1}, "lr must"),
        ({"context": -1}, "context must"),
        ({"layers": 0}, "layers must"),
        ({"layers": 9}, "has 3 layers"),
        ({"gradient": "true"}, "exact"),
    ],
)
def test_wrong_parameters_get_one_sentence(llama, params, words):
    with pytest.raises(UsageError, match=words):
        make_method(llama, "tint", **params)


def test_attention_that_it_does_not_know_is_refused():
    with pytest.raises(UsageError, match="has neither"):
        make_method(tiny_model("gpt-neox"), "tint")
