"""What every trained method inside the body keeps, whichever it is."""

from functools import partial

import numpy as np
import pytest
import torch
from fast_heads import BODIES
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from toys import both_losses, trained, write_texts

from tta_bench import SlowWeights, UsageError, Window
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.documents import tokenized
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.model.step_shape import StepShape
from tta_bench.training.loss import SegmentLoss
from tta_bench.validity import check
from tta_bench.validity.check import quick_checks

every_body = pytest.mark.parametrize("name", BODIES)


def spec(name, **options):
    values = BODIES[name] | options
    return f"{name}:{','.join(f'{key}={value}' for key, value in values.items())}"


@every_body
@pytest.mark.parametrize("shape", [StepShape(20, 20, 0), StepShape(20, 8, 0), StepShape(1, 1, 0)])
def test_flops_are_what_is_executed(name, shape, llama):
    assert check_flops(make_method(llama, name, weights="random"), shape, name, steps=2).agrees


@every_body
def test_quick_checks_pass(name):
    cls = load(name)
    assert quick_checks(cls, cls.Params(), name).valid is True


@slow
@every_body
def test_every_probe_passes(name):
    report = check(name, None)
    assert {r.probe for r in report.results if r.status != "pass"} <= {"off"}
    assert report.valid is True


@every_body
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=slow)])
def test_its_loss_falls_through_its_own_updates(name, fast, tmp_path):
    model = load_model("builtin:tiny", "float32", "cpu")
    text = write_texts(tmp_path) / "0.txt"
    (document,) = tokenized(str(text), model.tokenizer)
    ids = torch.tensor(document.token_ids)[None, :97].long()
    torch.manual_seed(0)
    cls = load(name)
    module = cls.slow_weights(model, build(cls.Slow, BODIES[name] | {"fast": fast}, name))
    loss = SegmentLoss(module.attach(model), module, False, (32,), 32, 1, 1.0)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    mask, fresh = torch.ones(1, 96, dtype=torch.bool), torch.tensor([[True, False, False]])
    losses = []
    for _ in range(5):
        loss.forget()
        found = loss(ids[:, :-1], ids[:, 1:], mask, fresh, torch.tensor([0]))["loss"] / 96
        losses.append(found.item())
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    assert all(value.grad is not None and value.grad.any() for value in module.parameters())
    assert losses[-1] < losses[0] - 0.05


@every_body
def test_the_control_has_the_same_size_and_keeps_nothing_of_a_document(name, llama):
    cls = load(name)
    sizes = []
    for fast in (True, False):
        module = cls.slow_weights(llama, build(cls.Slow, BODIES[name] | {"fast": fast}, name))
        sizes.append({key: value.shape for key, value in module.state_dict().items()})
        torch.manual_seed(0)
        with torch.no_grad():  # a gain that begins as zero would keep everything as it is
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model, states = module.attach(llama), []
        for seed in (1, 2):
            ids = torch.from_numpy(random_document("d", 16, seed).token_ids).long()[None]
            window = Window(ids, *[torch.tensor([16])] * 2, 16)
            fresh = module.fresh_state(1)
            _, memo = module.read(model, window, fresh)
            states.append(module.write(memo, window, ids, model.unembedding, fresh))
        same = all(torch.equal(value, states[1][key]) for key, value in states[0].items())
        assert same != fast
    assert sizes[0] == sizes[1]


@slow
@every_body
@pytest.mark.parametrize("options", [{}, {"fast": "no"}])
def test_it_is_trained_saved_and_evaluated(name, options, tmp_path):
    texts = write_texts(tmp_path)
    file = trained(spec(name, **options), texts, tmp_path / "out", learning_rate=3e-3)
    model = load_model("builtin:tiny", "float32", "cpu")
    found = SlowWeights.load(file, name, model)
    cls = load(name)
    module = cls.slow_weights(model, cls.Slow(**found.options))
    module.load_state_dict(found.tensors)
    training, engine = both_losses(model, name, module, file)
    assert training == pytest.approx(engine, rel=1e-5)
    documents = list(tokenized(str(texts / "0.txt"), model.tokenizer))
    sums = []
    for method, params in (("none", {}), (name, {"weights": str(file)})):
        losses = run_method(make_method(model, method, **params), documents, Protocol(chunk=32))
        sums.append(sum(float(value.sum()) for value in losses.values()))
    assert sums[1] < sums[0]


@slow
@every_body
def test_a_compiled_body_reads_the_same(name, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    document = random_document("d", 40, 3)
    plain = run_method(make_method(tiny_model(), name, weights="random"), [document])["d"]
    method = make_method(tiny_model(), name, weights="random")
    engine = Engine(method, Protocol(chunk=16), PREFIX, debug=True, compile=True)
    engine.warm_up(StepShape(16, 16, 0))
    assert engine.method.model.compiled
    (result,) = engine.run([document])
    np.testing.assert_allclose(result.nll, plain, atol=1e-4)
    torch._dynamo.reset()


@every_body
def test_weights_that_do_not_come_with_it_are_missed_in_a_sentence(name, llama):
    with pytest.raises(UsageError, match=f"{name}: no trained weights for random-llama come"):
        make_method(llama, name)
