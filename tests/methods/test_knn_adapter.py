"""The gate against the authors' numbers, the mixture against a loop over tokens, and training."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from golden import golden
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method
from torch.nn import functional as F

from tta_bench import StepShape, UsageError
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.training.loss import SegmentLoss
from tta_bench.validity.check import check, run
from tta_bench.validity.probes import FULL
from tta_bench.validity.subject import Subject
from tta_bench_methods.output.knn_adapter.gate import Gate
from tta_bench_methods.output.knn_adapter.module import FARTHEST, NEAREST, GateOptions, mixed

CHUNK = 16


def gate_of(found):
    """The gate with the authors' weights, and what it is given."""
    features = {k.removeprefix("f."): v for k, v in found.items() if k.startswith("f.")}
    context = features.pop("ctxt")
    width = len(found["w.model.0.bias"])
    layers = [key for key in found if key.startswith("w.model.") and key.endswith(".weight")]
    sizes = {name: value.shape[1] for name, value in features.items()}
    gate = Gate(context.shape[1], sizes, width, len(layers) - 1)
    own = {}
    for number, key in enumerate(sorted(layers, key=lambda key: int(key.split(".")[2]))):
        for part in ("weight", "bias"):
            name = f"layers.{number}" if number < len(layers) - 1 else "weights"
            own[f"{name}.{part}"] = found[key.replace("weight", part)]
    for name in sizes:
        for place in (0, 2):
            for part in ("weight", "bias"):
                key = f"w.input_layer.{name}.model.{place}.{part}"
                own[f"features.{name}.{place}.{part}"] = found[key]
    left = gate.load_state_dict(own, strict=False)
    assert set(left.missing_keys) == {"log_temperature.weight", "log_temperature.bias"}
    return gate, context, features


@pytest.mark.parametrize("path", golden("knn-lm", "*_moe_gate.npz"))
def test_gate_and_its_training_are_the_authors(path):
    with np.load(path) as arrays:
        found = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}
    gate, context, features = gate_of(found)
    optimizer = torch.optim.Adam(gate.parameters(), lr=float(found["lr"]))
    scores = torch.stack([found["lm_log_prob"], found["knn_log_prob"]], dim=1)
    for number, expected in enumerate(found["losses"]):
        log_weights, _ = gate(context, features)
        nll = -torch.logsumexp(log_weights + scores, dim=1)
        if number == 0:
            torch.testing.assert_close(log_weights, found["log_gate"], rtol=0, atol=1e-6)
            torch.testing.assert_close(nll, found["nll"], rtol=0, atol=1e-6)
        loss = nll.mean() + float(found["l1"]) * log_weights[:, 1].exp().mean()
        assert loss.item() == pytest.approx(float(expected), abs=2e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def adapter(model, lanes=1, **params):
    return make_method(model, "knn-adapter", lanes, weights="random", **params)


@torch.no_grad()
def token_by_token(model, ids, gate, window, k):
    """Losses of a document, from one pass over it and a loop over its positions."""
    sequence, losses = torch.tensor([PREFIX, *ids]), []
    states = []
    for first in range(0, len(ids), CHUNK):
        part = sequence[None, first : min(first + CHUNK, len(ids))]
        states.append(model.net(part, output_hidden_states=True).hidden_states[-1][0])
    hidden = torch.cat(states)
    unit = F.normalize(hidden, dim=-1)
    for t, h in enumerate(hidden):
        own = (model.net.get_output_embeddings().weight @ h).softmax(-1)
        y = sequence[t + 1]
        known = range(max(0, t - window), t)
        if not known:
            losses.append(-own[y].log())
            continue
        distances = torch.stack([(unit[t] - unit[i]).square().sum() for i in known])
        closest = distances.sort().values[:NEAREST]
        closest = F.pad(closest, (0, NEAREST - len(closest)), value=FARTHEST)
        pairs = torch.tensor([math.log1p(len(known))])
        log_weights, log_temperature = gate(
            F.layer_norm(h, h.shape), {"distances": closest, "pairs": pairs}
        )
        near = distances <= distances.sort().values[:k][-1]
        shares = (-distances / log_temperature.exp()).masked_fill(~near, -math.inf).softmax(0)
        same = torch.tensor([bool(sequence[i + 1] == y) for i in known])
        neighbours = (shares * same).sum()
        kept, share = log_weights.exp()
        losses.append(-(kept * own[y] + share * neighbours).log())
    return torch.stack(losses).numpy()


@pytest.mark.parametrize("lanes", [1, 2])
def test_reading_equals_a_loop_over_tokens(llama, lanes, monkeypatch):
    monkeypatch.setattr(load("knn-adapter"), "Slow", partial(GateOptions, window=24, k=5))
    documents = [random_document(key, 60, seed) for seed, key in enumerate("abc")]
    method = adapter(llama, lanes)
    for key, losses in run_method(method, documents, Protocol(chunk=CHUNK)).items():
        (ids,) = (d.token_ids for d in documents if d.key == key)
        expected = token_by_token(llama, ids, method.module.gate, 24, 5)
        np.testing.assert_allclose(losses, expected, atol=2e-4)


def build_module(model, **options):
    cls = load("knn-adapter")
    torch.manual_seed(0)
    return cls.slow_weights(model, build(cls.Slow, options, "knn-adapter"))


def test_a_cut_into_chunks_moves_nothing(llama):
    """With a full context every cut sees the same hidden states."""
    document = random_document("a", 60, 1)
    protocol = partial(Protocol, context=64, context_mode="recompute")
    one, other = (
        run_method(adapter(llama), [document], protocol(chunk=chunk))["a"] for chunk in (4, 15)
    )
    np.testing.assert_allclose(one, other, atol=2e-4)


def test_a_mixture_sums_to_one_and_has_gradients_everywhere():
    torch.manual_seed(0)
    below = torch.randn(1, 2, 7, dtype=torch.float64).log_softmax(-1)
    tokens = torch.tensor([[3, 3, 5]])
    logits = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 2, 2, dtype=torch.float64, requires_grad=True)

    def rows(logits, weights):
        return mixed(below, logits.softmax(-1), tokens, weights.log_softmax(-1))

    sums = rows(logits, weights).logsumexp(-1)
    torch.testing.assert_close(sums, torch.zeros_like(sums))
    assert torch.autograd.gradcheck(rows, (logits, weights))


@pytest.mark.parametrize("fast", [True, False])
def test_its_loss_falls_on_a_document_whose_store_is_its_prefix(fast):
    model = load_model("builtin:tiny", "float32", "cpu")
    text = "".join(f"def number_{i}(x):\n    return x + {i}\n\n" for i in range(40))
    ids = torch.tensor(model.tokenizer(text)["input_ids"][:97])[None]
    module = build_module(model, window=64, fast=fast)
    loss = SegmentLoss(model, module, False, (48,), 48, 1, 96)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    mask, lane = torch.ones(1, 96, dtype=torch.bool), torch.tensor([0])
    losses = []
    for _ in range(5):
        loss.forget()
        optimizer.zero_grad()
        value = loss(ids[:, :-1], ids[:, 1:], mask, torch.tensor([[True, False]]), lane)["loss"]
        losses.append(value.item())
        value.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.01
    assert all(torch.isfinite(value.grad).all() for value in module.parameters())


@torch.no_grad()
def test_the_control_has_one_weight_for_all_positions(llama):
    adapting, control = (build_module(llama, fast=fast) for fast in (True, False))
    for module in (adapting, control):
        torch.nn.init.normal_(module.gate.weights.weight)
    hidden, distances = torch.randn(1, 6, llama.hidden_size), torch.rand(1, 6, 20)
    visible = torch.ones(1, 6, 20, dtype=torch.bool)
    for module, kinds in ((adapting, 6), (control, 1)):
        assert len(module._gate(hidden, distances, visible)[0].unique(dim=1)[0]) == kinds


def test_a_bad_option_is_refused_in_a_sentence(llama):
    with pytest.raises(UsageError, match="k must be at least 1"):
        build_module(llama, k=0)


@pytest.mark.parametrize("shape", [StepShape(16, 16, 0), StepShape(40, 24, 0)])
def test_flops_are_what_is_executed(llama, shape):
    assert check_flops(adapter(llama), shape, "knn-adapter", steps=2).agrees


def test_it_does_not_see_the_future():
    wanted = ("runs", "deterministic", "causality")
    report = run(Subject.from_spec("knn-adapter"), [p for p in FULL if p.name in wanted])
    assert [r.status for r in report.results] == ["pass"] * 3


@slow
def test_every_probe_passes():
    report = check("knn-adapter", None)
    assert {r.probe for r in report.results if r.status != "pass"} == {"off"}
    assert report.valid is True
