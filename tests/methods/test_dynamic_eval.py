"""Dynamic evaluation against plain loops: `loss.backward()` and `torch.optim`, or the formula."""

import copy

import numpy as np
import pytest
import torch
from tiny import FAMILIES, PREFIX, make_method, random_document, run_method, tiny_model

from tta_bench import StepShape
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import ModelError, UsageError

CHUNK = 16


def reference_losses(model, ids, step):
    """Reads one document with a copy of the net; `step(net, loss)` updates it after each chunk."""
    net = copy.deepcopy(model.net).requires_grad_(True)
    sequence = torch.tensor([PREFIX, *ids])
    losses = []
    for first in range(0, len(ids), CHUNK):
        stop = min(first + CHUNK, len(ids))
        logits = net(sequence[None, first:stop]).logits[0]
        nll = torch.nn.functional.cross_entropy(
            logits, sequence[first + 1 : stop + 1], reduction="none"
        )
        losses.append(nll.detach())
        step(net, nll.mean())
    return torch.cat(losses).numpy()


def optimiser_step(make, clip=None):
    """A step of an optimiser of torch.optim, made at the first call."""
    held = {}

    def step(net, loss):
        if "optimizer" not in held:
            held["optimizer"] = make(net.parameters())
        held["optimizer"].zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        held["optimizer"].step()

    return step


@pytest.mark.parametrize(
    ("params", "make", "clip"),
    [
        ({"optimizer": "sgd", "lr": "0.02"}, lambda p: torch.optim.SGD(p, lr=0.02), None),
        ({"optimizer": "sgd", "lr": "0.5", "clip": "0.1"}, lambda p: torch.optim.SGD(p, 0.5), 0.1),
        ({"optimizer": "adam", "lr": "1e-3"}, lambda p: torch.optim.Adam(p, lr=1e-3), None),
        (
            {"optimizer": "adamw", "lr": "1e-3", "prior": "0"},
            lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0),
            None,
        ),
    ],
)
def test_it_equals_a_plain_loop_with_torch_optim(llama, params, make, clip):
    document = random_document("a", 90, 1)
    found = run_method(make_method(llama, "dynamic-eval", **params), [document])["a"]
    expected = reference_losses(llama, document.token_ids, optimiser_step(make, clip))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_adamw_pulls_to_the_pretrained_weights(llama):
    """One more step of AdamW with decay on the *displacement* from theta0."""
    document = random_document("a", 60, 1)
    start = {name: value.clone() for name, value in llama.net.named_parameters()}
    lr, prior = 1e-2, 5.0
    held = {}

    def step(net, loss):
        if not held:
            held["adam"] = torch.optim.Adam(net.parameters(), lr=lr)
        held["adam"].zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, value in net.named_parameters():
                value -= lr * prior * (value - start[name])
        held["adam"].step()

    method = make_method(llama, "dynamic-eval", optimizer="adamw", lr=str(lr), prior=str(prior))
    found = run_method(method, [document])["a"]
    np.testing.assert_allclose(found, reference_losses(llama, document.token_ids, step), atol=5e-4)


RULES = ["rms18", "rms19", "rms-gpt2"]


@pytest.fixture
def statistics(monkeypatch, llama):
    """Random positive sums of squares in place of those of a dataset."""
    generator = torch.Generator().manual_seed(0)
    squares = {
        name: torch.rand(value.shape, generator=generator) + 0.01
        for name, value in llama.net.named_parameters()
    }
    monkeypatch.setattr(
        "tta_bench_methods.parameter.dynamic_eval.method.gradient_statistics",
        lambda model, names, dataset, blocks: {n: squares[n] for n in names},
    )
    return squares


@pytest.mark.parametrize("rule", RULES)
def test_rms_rules_follow_their_formulas(llama, statistics, rule):
    document = random_document("a", 60, 1)
    lr, prior, blocks = 1e-2, 0.05, 4
    start = {name: value.clone() for name, value in llama.net.named_parameters()}
    roots = {name: (s / blocks).sqrt() for name, s in statistics.items()}
    mean = sum(root.mean() for root in roots.values()) / len(roots)

    def step(net, loss):
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, value in net.named_parameters():
                g, s = value.grad, statistics[name]
                if rule == "rms18":
                    d = torch.minimum(roots[name] / mean, torch.tensor(1 / prior))
                    value += prior * d * (start[name] - value) - lr * g / (roots[name] + 2e-5)
                elif rule == "rms19":
                    value -= lr * g / (s.sqrt() + 1e-5) + prior * s.sqrt() * (value - start[name])
                else:
                    value -= lr * g / (s + 1e-3)

    params = {"optimizer": rule, "lr": str(lr), "stats": "x", "stats_blocks": str(blocks)}
    if rule != "rms-gpt2":
        params["prior"] = str(prior)
    found = run_method(make_method(llama, "dynamic-eval", **params), [document])["a"]
    np.testing.assert_allclose(found, reference_losses(llama, document.token_ids, step), atol=5e-4)


def test_gradient_statistics_are_sums_of_squares_over_blocks(tmp_path):
    from tta_bench.model.load import load_model
    from tta_bench_methods.parameter.dynamic_eval.offline import (
        STATISTICS_BLOCK,
        gradient_statistics,
    )

    model = load_model("builtin:tiny", device="cpu")
    text = "def area(width, height):\n    return width * height\n\n" * 60
    (tmp_path / "a.py").write_text(text)
    name = "model.norm.weight"
    squares = gradient_statistics(model, [name], str(tmp_path), 1)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"][: STATISTICS_BLOCK + 1]
    net = copy.deepcopy(model.net).requires_grad_(True)
    net(torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
    expected = net.get_parameter(name).grad.square()
    torch.testing.assert_close(squares[name], expected, rtol=1e-4, atol=1e-9)
    settings = {"optimizer": "rms19", "subset": "norm", "stats": str(tmp_path), "stats_blocks": 1}
    method = make_method(model, "dynamic-eval", **settings)
    block = StepShape(STATISTICS_BLOCK, STATISTICS_BLOCK, 0)
    cost = method.cost.forward(block) + method.cost.backward(block, list(method.start))
    assert method.offline_flops == cost > 0
    with pytest.raises(UsageError, match="fewer than stats_blocks"):
        gradient_statistics(model, [name], str(tmp_path), 50)


SUBSETS = ["all", "body", "mlp", "last-1", "norm", "head", "lora"]


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_subset_learns_and_only_it_moves(llama, subset):
    document = random_document("a", 120, 2)
    method = make_method(llama, "dynamic-eval", subset=subset, lr="3e-3")
    before = {name: value.clone() for name, value in llama.net.named_parameters()}
    adapted = run_method(method, [document])["a"]
    plain = run_method(make_method(llama, "none"), [document])["a"]
    assert adapted[CHUNK:].mean() < plain[CHUNK:].mean()
    assert all(torch.equal(value, before[n]) for n, value in llama.net.named_parameters())
    names = {key.removeprefix("weight:") for key in method.state if key.startswith("weight:")}
    expected = {
        "all": lambda n: True,
        "body": lambda n: "embed" not in n,
        "mlp": lambda n: ".mlp." in n,
        "last-1": lambda n: ".layers.2." in n,
        "norm": lambda n: "norm" in n,
        "head": lambda n: "embed" in n,  # tied
    }.get(subset)
    if expected is not None:
        assert names == {n for n in before if expected(n)}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_runs_on_every_family(family):
    model = tiny_model(family)
    document = random_document("a", 48, 2)
    method = make_method(model, "dynamic-eval", optimizer="sgd", lr="1e-3", subset="mlp")
    run_method(method, [document])


def test_lora_equals_full_weights_moved_by_the_product(llama):
    """After one SGD step from B = 0 the adapted function is y + B A x, with A as it was."""
    document = random_document("a", 2 * CHUNK, 3)
    method = make_method(
        llama,
        "dynamic-eval",
        subset="lora",
        rank="4",
        targets=("down_proj",),
        optimizer="sgd",
        lr="0.5",
    )
    adapted = run_method(method, [document])["a"]
    moved = copy.deepcopy(llama.net)
    gradients = {}
    probe = copy.deepcopy(llama.net).requires_grad_(True)
    sequence = torch.tensor([PREFIX, *document.token_ids])
    logits = probe(sequence[None, :CHUNK]).logits[0]
    torch.nn.functional.cross_entropy(logits, sequence[1 : CHUNK + 1]).backward()
    for name, module in probe.named_modules():
        if name.endswith("down_proj"):
            gradients[name] = module.weight.grad
    start = method.adapters.initial()
    with torch.no_grad():
        for name, gradient in gradients.items():
            a = start[f"{name}.lora_A"]
            # dL/dB = dL/dW A^T, so B = -lr dL/dW A^T
            moved.get_submodule(name).weight += -0.5 * (gradient @ a.T) @ a
    logits = moved(sequence[None, CHUNK:-1]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, sequence[CHUNK + 1 :], reduction="none")
    np.testing.assert_allclose(adapted[CHUNK:], expected.detach(), atol=2e-4)


def test_an_interval_of_two_chunks_is_one_step_on_their_mean(llama):
    document = random_document("a", 96, 1)
    held = {"losses": []}

    def step(net, loss):
        held["losses"].append(loss)
        if len(held["losses"]) == 2:
            net.zero_grad()
            torch.stack(held["losses"]).mean().backward()
            with torch.no_grad():
                for value in net.parameters():
                    value -= 0.02 * value.grad
            held["losses"] = []

    method = make_method(llama, "dynamic-eval", optimizer="sgd", lr="0.02", interval=str(2 * CHUNK))
    found = run_method(method, [document])["a"]
    expected = reference_losses(llama, document.token_ids, step)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_step_of_zero_is_none_on_any_lanes(llama):
    """To the last bit on one lane; on several the batched products round in another way."""
    documents = [random_document(f"d{i}", length, i) for i, length in enumerate((70, 48, 33))]
    plain = run_method(make_method(llama, "none"), documents)
    for lanes, tolerance in ((1, 0.0), (3, 1e-5)):
        found = run_method(make_method(llama, "dynamic-eval", lanes, lr="0"), documents)
        for key, losses in plain.items():
            np.testing.assert_allclose(found[key], losses, rtol=0, atol=tolerance)


def test_reading_lanes_one_by_one_is_said(llama, monkeypatch):
    assert make_method(llama, "dynamic-eval", 2).notes == ()
    monkeypatch.setattr(type(llama), "one_by_one", lambda model, names: "Experts has no form")
    assert make_method(llama, "dynamic-eval").notes == ()  # on one lane nothing is lost
    (note,) = make_method(llama, "dynamic-eval", 2).notes
    assert "one after another: Experts" in note


def test_blocks_that_were_not_found_are_missed_only_where_they_are_needed(monkeypatch):
    model = tiny_model("gpt2")

    def missing(model):
        raise ModelError("the transformer blocks of tiny were not found")

    monkeypatch.setattr(type(model), "layers", property(missing))
    for subset in ("all", "body", "norm", "bias", "head"):
        assert make_method(model, "dynamic-eval", subset=subset).start
    for subset in ("mlp", "last-1"):
        with pytest.raises(ModelError, match="were not found"):
            make_method(model, "dynamic-eval", subset=subset)


def test_weights_are_kept_in_float32_under_a_bfloat16_model():
    """A step far below bfloat16's resolution must not be lost: many of them add up."""
    model = tiny_model("llama", torch.bfloat16)
    method = make_method(model, "dynamic-eval", optimizer="sgd", lr="1e-4")
    run_method(method, [random_document("a", 160, 1)], Protocol(chunk=CHUNK))
    name = "weight:model.layers.0.mlp.down_proj.weight"
    weight = method.state[name][0]
    assert weight.dtype == torch.float32
    moved = weight - method.start[name.removeprefix("weight:")]
    assert 0 < moved.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"subset": "mpl"}, "no subset 'mpl'"),
        ({"subset": "last-9"}, "has 3 layers"),
        ({"subset": "bias"}, "is empty on"),
        ({"subset": "lora", "targets": ("attn_out",)}, "no linear module"),
        ({"optimizer": "rms-gpt2"}, "needs gradient statistics"),
        ({"optimizer": "sgd", "prior": "0.1"}, "prior does not go with"),
        ({"optimizer": "adamx"}, "did you mean 'adam'"),
    ],
)
def test_wrong_parameters_get_one_sentence(llama, params, words):
    cls = load("dynamic-eval")

    def make():
        return cls(llama, build(cls.Params, params, "dynamic-eval"), 1)

    with pytest.raises(UsageError, match=words):
        make()
