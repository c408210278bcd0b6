"""More of dynamic evaluation against plain loops: subsets, steps, momentum, weights, warm LoRA."""

import copy

import numpy as np
import pytest
import torch
from tiny import FAMILIES, PREFIX, make_method, random_document, run_method, tiny_model
from torch import nn
from torch.nn import functional as F

from tta_bench import StepShape, UsageError
from tta_bench.contract.choice import choose
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build, to_spec
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model

CHUNK = 16
OFFLINE = "tta_bench_methods.parameter.dynamic_eval.method"
TEXT = "def area(width, height):\n    return width * height\n\n"


def plain_loop(model, ids, make, wanted=lambda name: True, steps=1, weigh=None):
    """Losses of a document read with a copy of the net, trained by an optimiser of torch.optim.

    `weigh(nll, tokens so far, targets)` gives the weights of a chunk's mean, of mean one.
    """
    net = copy.deepcopy(model.net)
    for name, value in net.named_parameters():
        value.requires_grad_(wanted(name))
    optimizer = make([value for value in net.parameters() if value.requires_grad])
    sequence, losses = torch.tensor([PREFIX, *ids]), []
    for first in range(0, len(ids), CHUNK):
        stop = min(first + CHUNK, len(ids))
        targets = sequence[first + 1 : stop + 1]
        for number in range(steps):
            nll = F.cross_entropy(
                net(sequence[None, first:stop]).logits[0], targets, reduction="none"
            )
            if number == 0:
                losses.append(nll.detach())
                weights = torch.ones(len(nll))
                if weigh is not None:
                    weights = weigh(nll.detach(), sequence[1 : stop + 1], targets)
            optimizer.zero_grad()
            (weights * nll).mean().backward()
            optimizer.step()
    return torch.cat(losses).numpy()


def sgd(lr=0.05, momentum=0.0):
    return lambda values: torch.optim.SGD(values, lr=lr, momentum=momentum)


def found(model, document, lanes=1, **params):
    method = make_method(model, "dynamic-eval", lanes, **params)
    return method, run_method(method, [document])[document.key]


@pytest.mark.parametrize(
    ("subset", "wanted"),
    [
        ("down", lambda name: "down_proj" in name),
        ("query", lambda name: "q_proj" in name),
        ("blocks-0-1", lambda name: ".layers.0." in name or ".layers.1." in name),
        ("blocks-2-2", lambda name: ".layers.2." in name),
    ],
)
def test_subsets_equal_a_plain_loop(llama, subset, wanted):
    document = random_document("a", 70, 1)
    method, losses = found(llama, document, optimizer="sgd", lr=0.05, subset=subset)
    expected = plain_loop(llama, document.token_ids, sgd(), wanted)
    np.testing.assert_allclose(losses, expected, atol=3e-4)
    assert set(method.start) == {n for n, _ in llama.net.named_parameters() if wanted(n)}


@pytest.mark.parametrize("family", FAMILIES)
def test_down_projections_lead_out_of_the_mlps_of_every_family(family):
    model = tiny_model(family)
    method = make_method(model, "dynamic-eval", subset="down")
    shapes = method.cost.linear_shapes()
    for name in method.start:
        wide, narrow = shapes.get(name.removesuffix(".weight"), (0, model.hidden_size))
        assert narrow == model.hidden_size, name
        assert wide != model.hidden_size, name
    assert len(method.start) >= model.num_layers


def test_queries_are_float32_under_bfloat16_while_keys_and_values_stay():
    model = tiny_model("llama", torch.bfloat16)
    settings = {"subset": "query", "optimizer": "sgd", "lr": 1e-4}
    method, _ = found(model, random_document("a", 160, 1), **settings)
    assert all(".q_proj." in name for name in method.start)
    moved = [method.state[f"weight:{n}"][0] - value for n, value in method.start.items()]
    assert all(m.dtype == torch.float32 and 0 < m.abs().max() < 1e-3 for m in moved)


@pytest.mark.parametrize("subset", ["all", "norm"])
def test_further_steps_read_the_chunk_again(llama, subset):
    document = random_document("a", 70, 1)
    settings = {"optimizer": "adam", "lr": 1e-3, "steps": 3, "subset": subset}
    _, losses = found(llama, document, **settings)
    expected = plain_loop(
        llama,
        document.token_ids,
        lambda values: torch.optim.Adam(values, lr=1e-3),
        lambda name: subset == "all" or "norm" in name,
        steps=3,
    )
    np.testing.assert_allclose(losses, expected, atol=5e-4)


@pytest.mark.parametrize("lanes", [1, 2])
def test_momentum_is_that_of_torch_optim_and_starts_anew(llama, lanes):
    documents = [random_document(key, 70, seed) for seed, key in enumerate("abc")]
    method = make_method(llama, "dynamic-eval", lanes, optimizer="sgd", lr=0.02, momentum=0.9)
    for key, losses in run_method(method, documents).items():
        (own,) = (d.token_ids for d in documents if d.key == key)
        expected = plain_loop(llama, own, sgd(0.02, 0.9))
        np.testing.assert_allclose(losses, expected, atol=3e-4)


def rescaled(weights):
    return weights * len(weights) / weights.sum()


def test_surprising_tokens_weigh_more(llama):
    document = random_document("a", 70, 1)
    _, losses = found(llama, document, optimizer="sgd", lr=0.05, weights="surprisal", steps=2)
    expected = plain_loop(
        llama, document.token_ids, sgd(), steps=2, weigh=lambda nll, *_: rescaled(nll)
    )
    np.testing.assert_allclose(losses, expected, atol=3e-4)


@pytest.mark.parametrize("lanes", [1, 2])
def test_rare_tokens_that_stand_often_in_the_document_weigh_more(llama, lanes, monkeypatch):
    rarity = torch.rand(llama.vocab_size, generator=torch.Generator().manual_seed(0)) + 1
    monkeypatch.setattr(f"{OFFLINE}.inverse_frequencies", lambda *_: rarity)

    def weigh(nll, so_far, targets):
        return rescaled(torch.stack([(so_far == y).sum() * rarity[y] for y in targets]))

    documents = [random_document(key, 60, seed) for seed, key in enumerate("abc")]
    settings = {"optimizer": "sgd", "lr": 0.05, "weights": "tf-idf", "stats": "x"}
    method = make_method(llama, "dynamic-eval", lanes, **settings)
    for key, losses in run_method(method, documents).items():
        (own,) = (d.token_ids for d in documents if d.key == key)
        np.testing.assert_allclose(losses, plain_loop(llama, own, sgd(), weigh=weigh), atol=3e-4)


def test_document_frequencies_are_those_of_blocks(tmp_path):
    from tta_bench_methods.parameter.dynamic_eval.offline import inverse_frequencies

    model = load_model("builtin:tiny", device="cpu")
    text = TEXT * 60 + "while True:\n    pass\n\n" * 400
    (tmp_path / "a.py").write_text(text)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    blocks = [set(ids[first : first + 512]) for first in (0, 512, 1024)]
    expected = [
        np.log(4 / (1 + sum(token in block for block in blocks))) + 1
        for token in range(model.vocab_size)
    ]
    rarity = inverse_frequencies(model, str(tmp_path), 3)
    np.testing.assert_allclose(rarity, expected, rtol=1e-6)
    assert len(rarity.unique()) > 2
    with pytest.raises(UsageError, match="fewer than stats_blocks"):
        inverse_frequencies(model, str(tmp_path), 500)


class Adapted(nn.Module):
    """A linear module and its adapter, as a plain module."""

    def __init__(self, inner, down, up):
        super().__init__()
        self.inner, self.down, self.up = inner, nn.Parameter(down), nn.Parameter(up)

    def forward(self, x):
        return self.inner(x) + x @ self.down.T @ self.up.T


def test_a_warm_start_is_a_plain_loop_over_other_text(tmp_path):
    """A goes on from document to document, B and the moments of Adam start anew."""
    model = load_model("builtin:tiny", device="cpu")
    for name, words in (("a.py", "width"), ("b.py", "length")):
        (tmp_path / name).write_text(TEXT.replace("width", words) * 60)
    settings = {"subset": "lora", "rank": 2, "targets": ("down_proj",), "lr": 1e-3}
    method = make_method(model, "dynamic-eval", warm=str(tmp_path), warm_chunks=5, **settings)
    start = method.adapters.initial()
    net, adapted = copy.deepcopy(model.net).requires_grad_(False), {}
    for name in method.adapters.modules:
        parent, _, own = name.rpartition(".")
        down, up = (start[f"{name}.lora_{part}"].clone() for part in "AB")
        adapted[name] = Adapted(net.get_submodule(name), down, up)
        setattr(net.get_submodule(parent), own, adapted[name])
    values = [value for module in adapted.values() for value in (module.down, module.up)]
    done = 0
    for file in sorted(tmp_path.iterdir()):
        ids = torch.tensor(model.tokenizer(file.read_text(), add_special_tokens=False)["input_ids"])
        optimizer = torch.optim.Adam(values, lr=1e-3)
        for module in adapted.values():
            module.up.data.zero_()
        for first in range(0, len(ids) - 256, 256):
            if done == 5:
                break
            logits = net(ids[None, first : first + 256]).logits[0]
            optimizer.zero_grad()
            F.cross_entropy(logits, ids[first + 1 : first + 257]).backward()
            optimizer.step()
            done += 1
    assert done == 5
    for name, module in adapted.items():
        learned = method.start[f"{name}.lora_A"]
        assert not torch.equal(learned, start[f"{name}.lora_A"])
        torch.testing.assert_close(learned, module.down.data, rtol=0, atol=2e-4)
        assert not method.start[f"{name}.lora_B"].any()
    assert method.offline_flops == 5 * method.flops(StepShape(256, 256, 0))
    assert type(method).offline_datasets(method.params) == [str(tmp_path)]
    with pytest.raises(UsageError, match="fewer than warm_chunks"):
        make_method(model, "dynamic-eval", warm=str(tmp_path), warm_chunks=900, **settings)


SPECS = [
    "dynamic-eval:subset=down",
    "dynamic-eval:subset=query",
    "dynamic-eval:subset=blocks-1-1",
    "dynamic-eval:steps=3",
    "dynamic-eval:steps=2,subset=lora",
    "dynamic-eval:optimizer=sgd,momentum=0.9,weights=surprisal",
    "window:context=8+dynamic-eval:steps=2,subset=down",
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [StepShape(16, 16, 0), StepShape(40, 24, 0)])
def test_formulas_are_what_is_counted(llama, spec, shape):
    choice = choose(spec)
    report = check_flops(choice.cls(llama, choice.params, 2), shape, spec)
    assert report.counted == pytest.approx(report.analytic, rel=0.02)


@pytest.mark.parametrize("spec", SPECS)
def test_lanes_learn_as_if_alone(llama, spec):
    choice = choose(spec)
    documents = [random_document(f"d{i}", length, i) for i, length in enumerate((60, 48, 33))]
    side_by_side = run_method(choice.cls(llama, choice.params, 3), documents)
    for document in documents:
        alone = run_method(choice.cls(llama, choice.params, 1), [document])[document.key]
        np.testing.assert_allclose(side_by_side[document.key], alone, atol=5e-4)


@pytest.mark.parametrize("options", [{"steps": 2}, {"weights": "surprisal"}, {"subset": "query"}])
def test_a_step_of_zero_is_none(llama, options):
    document = random_document("a", 70, 1)
    expected = run_method(make_method(llama, "none"), [document])["a"]
    assert np.array_equal(found(llama, document, lr=0, **options)[1], expected)


def test_steps_go_on_where_keys_are_carried(llama):
    """The window is read again with the same past, and the past grows by it once."""
    protocol = Protocol(chunk=CHUNK, context=32, context_mode="cache")
    document = random_document("a", 90, 1)
    method = make_method(llama, "dynamic-eval", steps=2, lr=0)
    expected = run_method(make_method(llama, "none"), [document], protocol)["a"]
    assert np.array_equal(run_method(method, [document], protocol)["a"], expected)


def test_what_is_not_asked_for_is_not_in_the_label():
    cls = load("dynamic-eval")
    assert to_spec("dynamic-eval", build(cls.Params, {"lr": "1e-4"}, "dynamic-eval")) == (
        "dynamic-eval:lr=0.0001"
    )


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"steps": 0}, "steps must"),
        ({"steps": 2, "interval": 32}, "leave interval out"),
        ({"momentum": 0.9}, "momentum does not go with optimizer=adam"),
        ({"optimizer": "sgd", "momentum": 1}, "below 1"),
        ({"weights": "tf-idf"}, "add stats=DATASET"),
        ({"weights": "salient"}, "surprisal"),
        ({"warm": "x"}, "warm is for subset=lora"),
        ({"subset": "lora", "warm": "x", "warm_chunks": 0}, "warm_chunks must"),
        ({"subset": "blocks-1-3"}, "blocks 0 to 2"),
        ({"subset": "blocks-2-1"}, "lower number first"),
    ],
)
def test_wrong_parameters_get_one_sentence(llama, params, words):
    with pytest.raises(UsageError, match=words):
        make_method(llama, "dynamic-eval", **params)


def test_a_fused_query_projection_is_no_query_projection():
    with pytest.raises(UsageError, match="empty on random-gpt2"):
        make_method(tiny_model("gpt2"), "dynamic-eval", subset="query")
