"""Modules that are trained through gradient steps on the body, or that give distributions."""

import pytest
import torch
from slow import slow
from tiny import make_method, random_document, run_method
from toys import both_losses, trained, write_texts

from tta_bench import Logits, SlowWeights, UsageError
from tta_bench.contract.registry import load
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.training.loss import SegmentLoss

SPECS = {
    "camels": "camels:width=8,subset=last-1,lr=0.01",
    "knn-adapter": "knn-adapter:window=20,width=8",
}


def module_of(model, name, options=None):
    cls = load(name)
    torch.manual_seed(0)
    return cls.slow_weights(model, cls.Slow(**(options or {})))


@slow
@pytest.mark.parametrize("name", SPECS)
def test_it_is_trained_saved_and_evaluated(name, tmp_path):
    texts = write_texts(tmp_path)
    file = trained(SPECS[name], texts, tmp_path / "out", windows=[16], steps=4)
    model = load_model("builtin:tiny", "float32", "cpu")
    found = SlowWeights.load(file, name, model)
    module = module_of(model, name, found.options)
    begun = [value.clone() for value in module.parameters()]
    module.load_state_dict(found.tensors)
    ended = list(module.parameters())
    assert all(not torch.equal(one, other) for one, other in zip(begun, ended, strict=True))
    training, engine = both_losses(model, name, module, file)
    assert training == pytest.approx(engine, rel=1e-5)
    assert abs(both_losses(model, name, None, file)[0] - training) > 1e-3


@slow
def test_it_is_trained_with_the_body(tmp_path):
    file = trained("ttt-e2e:width=8", write_texts(tmp_path), tmp_path / "out", "joint", steps=3)
    model = load_model("builtin:tiny", "float32", "cpu")
    found = SlowWeights.load(file, "ttt-e2e", model)
    assert found.body.keys() == dict(model.net.named_parameters()).keys()
    assert any(not torch.equal(v.float(), model.parameter(k)) for k, v in found.body.items())
    method = make_method(model, "ttt-e2e", weights=str(file))
    for name, value in found.body.items():
        assert torch.equal(method.model.parameter(name), value.float())
    assert run_method(method, [random_document("a", 70, 1)])["a"].shape == (70,)


def test_a_segment_of_one_window_is_refused(tmp_path):
    texts = write_texts(tmp_path)
    with pytest.raises(UsageError, match=r"train\.segment longer than train\.windows"):
        trained("camels:subset=norm", texts, tmp_path / "out", segment=32, windows=[32])


def test_what_is_differentiated_twice_is_not_compiled(llama):
    for name, expected in (("camels", {False}), ("ttt-e2e", {False}), ("toy-patch", {True})):
        module = module_of(llama, name)
        model = module.attach(llama)
        SegmentLoss(model, module, False, (8,), 8, 1, 1.0).compile_parts()
        assert {layer._compiled_call_impl is not None for layer in model.layers} == expected


def test_a_module_may_give_distributions(llama, monkeypatch):
    """The toy says the same of a segment and of a document whether it gives states or logits."""
    kind = type(module_of(llama, "toy-patch"))
    read = kind.read

    def distributions(self, model, window, state):
        hidden, memo = read(self, model, window, state)
        return Logits(hidden, lambda rows: 2 * model.unembed(rows), model.vocab_size), memo

    def doubled(self, model, window, state):
        hidden, memo = read(self, model, window, state)
        return 2 * hidden, memo

    document = random_document("a", 32, 0)
    ids, lane = torch.tensor([[0, *document.token_ids]]), torch.tensor([0])
    mask, fresh = torch.ones(1, 32, dtype=torch.bool), torch.tensor([[True, False, False, False]])
    found = {}
    for own in (distributions, doubled):
        monkeypatch.setattr(kind, "read", own)
        module = module_of(llama, "toy-patch")
        loss = SegmentLoss(module.attach(llama), module, False, (8,), 8, 1, 1.0)
        value = loss(ids[:, :-1], ids[:, 1:], mask, fresh, lane)["loss"]
        value.backward()
        method = make_method(llama, "toy-patch", weights="random")
        read_by = run_method(method, [document], Protocol(chunk=8))["a"]
        found[own.__name__] = (value.detach(), module.patches[0].gate.grad, torch.tensor(read_by))
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
