"""Slow weights inside the body, on a fast low-rank weight beside a down projection."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from toys import both_losses, trained, write_texts

from tta_bench import MethodError, SlowWeights
from tta_bench.contract.registry import load
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.model.step_shape import StepShape
from tta_bench.training.loss import SegmentLoss
from tta_bench.validity import check


def toy(model, lanes=1):
    return make_method(model, "toy-patch", lanes, weights="random")


def test_a_patch_passes_every_probe():
    report = check("toy-patch", None)
    assert {r.probe for r in report.results if r.status != "pass"} == {"off"}
    assert report.valid is True


@pytest.mark.parametrize("shape", [StepShape(20, 20, 0), StepShape(20, 8, 0)])
def test_flops_are_what_is_executed(shape, llama):
    assert check_flops(toy(llama), shape, "toy-patch", steps=2).agrees


@pytest.mark.parametrize(
    ("method", "body"),
    [("toy-patch", "frozen"), ("toy-patch", "joint"), ("toy-patch:fast=no", "frozen")],
)
def test_a_patch_is_trained_saved_and_evaluated(method, body, tmp_path):
    texts = write_texts(tmp_path)
    file = trained(method, texts, tmp_path / "out", body)
    model = load_model("builtin:tiny", "float32", "cpu")
    found = SlowWeights.load(file, "toy-patch", model)
    cls = load("toy-patch")
    module = cls.slow_weights(model, cls.Slow(**found.options))
    (patch,) = module.patches
    begun = patch.gate.item(), patch.keep.item()
    module.load_state_dict(found.tensors)
    assert patch.gate.item() != pytest.approx(begun[0], rel=0.01)
    assert (patch.keep.item() != begun[1]) == patch.adapts
    assert bool(found.body) == (body == "joint")
    own = model.with_weights(found.body)
    training, engine = both_losses(own, "toy-patch", module, file)
    assert training == pytest.approx(engine, rel=1e-5)
    plain = both_losses(own, "toy-patch", None, file)[0]
    assert abs(plain - training) > 1e-3


def test_training_goes_through_the_state_of_earlier_windows(llama):
    """What a window writes is read by the next ones of the document, and faded by their writes."""
    cls = load("toy-patch")
    module = cls.slow_weights(llama, cls.Slow())
    ids, lane = torch.arange(25)[None], torch.tensor([0])

    def gradients(fresh):
        loss = SegmentLoss(module.attach(llama), module, False, (8,), 8, 1, 1.0)
        module.zero_grad()
        mask = torch.ones(1, 24, dtype=torch.bool)
        loss(ids[:, :-1], ids[:, 1:], mask, torch.tensor([fresh]), lane)["loss"].backward()
        (patch,) = module.patches
        return float(patch.begin.grad.abs().max()), float(patch.keep.grad.abs())

    assert gradients([True, True, True])[1] == 0  # only the first state is read
    assert gradients([True, False, True])[1] > 0


def test_groups_of_windows_are_read_as_each_alone(llama):
    cls = load("toy-patch")
    torch.manual_seed(0)
    module = cls.slow_weights(llama, cls.Slow())
    attached = module.attach(llama)
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, 97, (2, 17)))
    mask, fresh = torch.ones(2, 16, dtype=torch.bool), torch.tensor([[True, False, False, False]])

    def nats(windows, rows):
        loss = SegmentLoss(attached, module, False, windows, 4, 2, 1.0)
        batch = ids[rows, :-1], ids[rows, 1:], mask[rows], fresh.expand(len(rows), -1)
        value = loss(*batch, torch.tensor(rows))["loss"] * len(rows)
        return float(value.detach()), loss.state

    both, states = nats((8, 4), [0, 1])
    eight, first = nats((8,), [0])
    four, second = nats((4,), [1])
    assert both == pytest.approx(eight + four, rel=1e-6)
    torch.testing.assert_close(states["0.M"][0], first["0.M"][0])
    torch.testing.assert_close(states["0.M"][1], second["0.M"][1])


def test_the_shared_model_stays_as_it_is(llama):
    document = random_document("d", 40, 3)
    before = run_method(make_method(llama, "none"), [document])["d"]
    method = toy(llama)
    moved = run_method(method, [document])["d"]
    assert method.model.layers[-1] is not llama.layers[-1]
    assert method.model.parameter("lm_head.weight") is llama.parameter("lm_head.weight")
    np.testing.assert_array_equal(run_method(make_method(llama, "none"), [document])["d"], before)
    assert np.abs(moved - before).max() > 1e-3


def test_a_compiled_body_reads_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    document = random_document("d", 40, 3)
    plain = run_method(toy(tiny_model()), [document])["d"]
    engine = Engine(toy(tiny_model()), Protocol(chunk=16), PREFIX, debug=True, compile=True)
    engine.warm_up(StepShape(16, 16, 0))
    assert engine.method.model.compiled
    (result,) = engine.run([document])
    np.testing.assert_allclose(result.nll, plain, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", ["recompute", "cache"])
def test_context_is_not_written_again(mode, llama):
    """A window with context writes its own chunk alone: the first step has no context."""
    document = random_document("d", 24, 3)
    states = []
    for protocol in (Protocol(chunk=8), Protocol(chunk=8, context=8, context_mode=mode)):
        method = toy(llama)
        masks = []
        patch = method.module.patches[0]
        patch.register_forward_hook(lambda module, given, _, seen=masks: seen.append(given[2]))
        run_method(method, [document], protocol)
        states.append([int(mask.sum()) for mask in masks])
    assert states == [[8, 8, 8], [8, 8, 8]]


def test_a_body_that_is_trained_too_shares_its_tensors():
    model = tiny_model()
    cls = load("toy-patch")
    attached = cls.slow_weights(model, cls.Slow()).attach(model)
    for (name, value), (other, own) in zip(
        model.net.named_parameters(), attached.net.named_parameters(), strict=True
    ):
        assert name == other
        assert value is own


def test_what_is_no_module_of_the_contract_is_refused(tmp_path, monkeypatch):
    cls = load("toy-patch")
    wrong = classmethod(lambda cls, model, slow: torch.nn.Linear(2, 2))
    monkeypatch.setattr(cls, "slow_weights", wrong)
    with pytest.raises(MethodError, match="slow_weights must return a"):
        trained("toy-patch", write_texts(tmp_path), tmp_path / "out")
