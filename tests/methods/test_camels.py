"""CaMeLS against the authors' numbers and plain loops, and its training through the steps."""

import copy
import json

import numpy as np
import pytest
import torch
from golden import golden
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method
from torch.func import functional_call
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from tta_bench import StepShape
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError
from tta_bench.model.load import load_model
from tta_bench.training.loss import SegmentLoss
from tta_bench.validity.check import check, run
from tta_bench.validity.probes import FULL
from tta_bench.validity.subject import Subject
from tta_bench_methods.parameter.camels.method import shuffled
from tta_bench_methods.parameter.camels.update import descended
from tta_bench_methods.parameter.camels.weigher import Weigher, token_features

CHUNK = 16
NEAR = {"rtol": 0, "atol": 3e-6}  # the authors' numbers are of float32


def arrays_of(path):
    with np.load(path) as found:
        return {
            key: torch.from_numpy(value).double() if value.dtype.kind == "f" else value
            for key, value in found.items()
        }


def gpt2(kind, config, arrays, prefix):
    net = kind(config).double().eval()
    own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    missing = net.load_state_dict(own, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}  # tied
    return net


def cross_entropies(net, values, ids, targets):
    logits = functional_call(net, values, (ids,)).logits[:, :-1]
    return F.cross_entropy(logits.mT, targets[:, 1:], reduction="none", ignore_index=-100)


@pytest.mark.parametrize("path", golden("camels", "*_outputs_*.npz"))
def test_weights_step_and_gradients_through_it_are_the_authors(path):
    name, _, kind = path.stem.partition("_outputs_")
    given, wanted = arrays_of(path.with_name(f"{name}_inputs.npz")), arrays_of(path)
    config = GPT2Config(**json.loads(str(given["config"])), attn_implementation="eager")
    encoder, lm = (
        gpt2(GPT2Model, config, given, "wm.gpt_base."),
        gpt2(GPT2LMHeadModel, config, given, "lm."),
    )
    ids = {
        key: torch.from_numpy(v)
        for key, v in given.items()
        if getattr(v, "ndim", 0) == 2 and v.dtype == np.int64
    }
    texts, there = ids["text_ids"], ids["text_attention"].double()
    width, inputs = given["wm.fc1.weight"].shape
    net = Weigher(inputs, width).double()
    features = encoder(texts).last_hidden_state
    torch.testing.assert_close(net(features) * there, wanted["weights_at_init"], **NEAR)
    net.load_state_dict({key: given[f"wm.{key}"] for key in net.state_dict()})
    weights = net(features) * there
    torch.testing.assert_close(weights, wanted["weights"], **NEAR)

    start = dict(lm.named_parameters())
    values, rate = start, float(given["inner_lr"])
    pieces = [slice(None)] if kind == "batch" else [slice(b, b + 1) for b in range(len(texts))]
    for rows in pieces:
        losses = cross_entropies(lm, values, texts[rows], texts[rows])
        values = descended(values, (weights[rows, 1:] * losses).mean(), rate)  # over padding, too
    for key in (key for key in wanted if key.startswith("updated.")):
        torch.testing.assert_close(values[key.removeprefix("updated.")], wanted[key], **NEAR)

    answers = ids["qa_target_ids"]
    following = (
        cross_entropies(lm, values, ids["qa_ids"], answers).sum() / (answers[:, 1:] >= 0).sum()
    )
    before, after = (
        functional_call(lm, theta, (ids["loc_ids"],)).logits.log_softmax(-1)
        for theta in (start, values)
    )
    moved = F.kl_div(after, before.detach(), reduction="none", log_target=True).sum(-1)
    elsewhere = moved[ids["loc_mask"].bool()].mean()
    total = following + given["c_kl"] * elsewhere
    for key, value in (
        ("metric.qa_loss", following),
        ("metric.open_web_text_kl_div", elsewhere),
        ("total_loss", total),
    ):
        torch.testing.assert_close(value, wanted[key], **NEAR)
    total.backward()
    gradients = {f"gpt_base.{k}": v.grad for k, v in encoder.named_parameters()}
    gradients |= {k: v.grad for k, v in net.named_parameters()}
    for key in (key for key in wanted if key.startswith("grad.")):
        torch.testing.assert_close(gradients[key.removeprefix("grad.")], wanted[key], **NEAR)


def camels(model, lanes=1, **params):
    return make_method(model, "camels", lanes, weights="random", **params)


def features_of(net, ids, table, labels):
    """Losses and features of the tokens after each position, from the net of transformers."""
    found = net(ids[None], output_hidden_states=True)
    nll = F.cross_entropy(found.logits[0], labels, reduction="none")
    hidden = found.hidden_states[-1]
    return nll, token_features(hidden.detach(), table[labels][None], nll.detach()[None])


def plain_loop(model, ids, weigher, make):
    """Losses of a document read with a copy of the net, trained by an optimiser of torch.optim."""
    net = copy.deepcopy(model.net).requires_grad_(True)
    optimizer = make(list(net.parameters()))
    table = model.net.get_input_embeddings().weight.detach()
    sequence, losses = torch.tensor([PREFIX, *ids]), []
    for first in range(0, len(ids), CHUNK):
        stop = min(first + CHUNK, len(ids))
        nll, features = features_of(
            net, sequence[first:stop], table, sequence[first + 1 : stop + 1]
        )
        weights = weigher(features)[0]
        losses.append(nll.detach())
        optimizer.zero_grad()
        (weights / weights.mean() * nll).mean().backward()
        optimizer.step()
    return torch.cat(losses).numpy()


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.05), ("adam", 1e-3)])
@pytest.mark.parametrize("lanes", [1, 2])
def test_reading_equals_a_plain_loop(llama, optimizer, lr, lanes):
    documents = [random_document(key, 70, seed) for seed, key in enumerate("ab")]
    method = camels(llama, lanes, optimizer=optimizer, lr=lr)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    for key, losses in run_method(method, documents, Protocol(chunk=CHUNK)).items():
        (ids,) = (d.token_ids for d in documents if d.key == key)
        make = lambda values: kinds[optimizer](values, lr=lr)  # noqa: E731
        np.testing.assert_allclose(
            losses, plain_loop(llama, ids, method.module.weigher, make), atol=5e-4
        )


def test_a_net_that_was_not_trained_is_dynamic_evaluation(llama):
    document = random_document("a", 70, 1)
    method = camels(llama, lr=0.05)
    learned = run_method(method, [document], Protocol(chunk=CHUNK))["a"]
    torch.nn.init.zeros_(method.module.weigher.fc2.weight)
    found = run_method(method, [document], Protocol(chunk=CHUNK))["a"]
    plain = make_method(llama, "dynamic-eval", optimizer="sgd", lr=0.05)
    expected = run_method(plain, [document], Protocol(chunk=CHUNK))["a"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(learned - expected).max() > 1e-2


def test_the_control_has_the_same_weights_at_other_tokens(llama):
    weights = torch.rand(2, 40)
    mask = torch.arange(40) < torch.tensor([[40], [25]])
    found = shuffled(weights * mask, mask)
    for row, count in enumerate((40, 25)):
        assert torch.equal(found[row, :count].sort().values, weights[row, :count].sort().values)
        assert (found[row, :count] == weights[row, :count]).sum() < 5
        assert not found[row, count:].any()
    alone = shuffled(weights[1:, :25], mask[1:, :25])
    assert torch.equal(found[1, :25], alone[0])
    document = random_document("a", 70, 1)
    one, other = (
        run_method(camels(llama, tokens=tokens, lr=0.05), [document], Protocol(chunk=CHUNK))["a"]
        for tokens in ("learned", "shuffled")
    )
    assert np.array_equal(one[:CHUNK], other[:CHUNK])
    assert abs(one - other).max() > 1e-3


def module_of(model, **options):
    cls = load("camels")
    torch.manual_seed(0)
    return cls.slow_weights(model, build(cls.Slow, {"width": 8} | options, "camels"))


@pytest.mark.parametrize("normalise", [True, False])
def test_training_is_a_segment_unrolled_token_by_token(llama, normalise):
    """The loss of a segment and its gradient, from plain autograd on the net of transformers."""
    module = module_of(llama, lr=0.1, normalise=normalise)
    torch.nn.init.normal_(module.weigher.fc2.weight)
    ids = torch.tensor([PREFIX, *random_document("a", 36, 3).token_ids])
    loss = SegmentLoss(llama, module, False, (12,), 12, 1, 1.0)
    mask, fresh = torch.ones(1, 36, dtype=torch.bool), torch.tensor([[True, False, False]])
    found = loss(ids[None, :-1], ids[None, 1:], mask, fresh, torch.tensor([0]))["loss"]
    found.backward()
    own = list(module.weigher.parameters())
    gradients = [value.grad for value in own]

    net = copy.deepcopy(llama.net).requires_grad_(True)
    net.set_attn_implementation("eager")
    table = llama.net.get_input_embeddings().weight.detach()
    values, total = dict(net.named_parameters()), 0.0
    for first in (0, 12, 24):
        read, labels = ids[first : first + 12], ids[first + 1 : first + 13]
        call = lambda given, **kw: functional_call(net, values, (given,), kw)  # noqa: B023, E731
        nll, features = features_of(call, read, table, labels)
        total = total + nll.sum()
        weights = module.weigher(features)[0]
        weights = weights / weights.mean() if normalise else weights
        step = sum(w * n for w, n in zip(weights, nll, strict=True)) / 12
        slopes = torch.autograd.grad(step, list(values.values()), create_graph=True)
        values = {k: v - 0.1 * s for (k, v), s in zip(values.items(), slopes, strict=True)}
    torch.testing.assert_close(found, total, rtol=1e-5, atol=0)
    for one, other in zip(gradients, torch.autograd.grad(total, own), strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * float(other.abs().max()))


def test_its_loss_falls_through_its_own_updates():
    model = load_model("builtin:tiny", "float32", "cpu")
    text = "".join(f"def number_{i}(x):\n    return x + {i}\n\n" for i in range(40))
    ids = torch.tensor(model.tokenizer(text)["input_ids"][:73])[None]
    module = module_of(model, subset="norm", lr=0.2, normalise=False)
    loss = SegmentLoss(model, module, False, (24,), 24, 1, 72)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    mask, lane = torch.ones(1, 72, dtype=torch.bool), torch.tensor([0])
    fresh = torch.tensor([[True, False, False]])
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        value = loss(ids[:, :-1], ids[:, 1:], mask, fresh, lane)["loss"]
        losses.append(value.item())
        value.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fast": False}, "compare it with camels:tokens=shuffled"),
        ({"width": 0}, "width must be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"subset": "lora"}, "another subset than lora"),
        ({"subset": "last-9"}, "has 3 layers"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(llama, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        module_of(llama, **options)


@pytest.mark.parametrize("shape", [StepShape(16, 16, 0), StepShape(40, 24, 0)])
def test_flops_are_what_is_executed(llama, shape):
    assert check_flops(camels(llama), shape, "camels", steps=2).agrees


def test_state_is_that_of_dynamic_evaluation(llama):
    plain = make_method(llama, "dynamic-eval", optimizer="sgd")
    assert camels(llama).state_bytes() == plain.state_bytes()
    adam = make_method(llama, "dynamic-eval", optimizer="adam")
    assert camels(llama, optimizer="adam").state_bytes() == adam.state_bytes()


def test_it_does_not_see_the_future():
    wanted = ("runs", "deterministic", "causality")
    report = run(Subject.from_spec("camels"), [p for p in FULL if p.name in wanted])
    assert [r.status for r in report.results] == ["pass"] * 3


@slow
@pytest.mark.parametrize("spec", ["camels", "camels:tokens=shuffled,optimizer=adam"])
def test_every_probe_passes(spec):
    report = check(spec, None)
    assert {r.probe for r in report.results if r.status != "pass"} == set()
    assert report.valid is True
