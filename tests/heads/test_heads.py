"""The contract of trained heads, on a head of one file and on fast weight layers."""

from itertools import pairwise

import pytest
import torch
from fast_heads import FAST_HEADS, SMALL, VARIANTS
from tiny import make_method, random_document, run_method, tiny_model
from toys import both_losses, trained, write_texts

from tta_bench import SlowWeights, UsageError, Window
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.documents import tokenized
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.model.step_shape import StepShape
from tta_bench.validity import check

HEADS = [
    ("toy-delta", {}),
    ("toy-inputs", {}),
    ("toy-delta", {"fast": False}),
    ("fwl", {"rates": 2}),
    ("fwl", {"forget": "off"}),
    ("fwl", {"residual": False}),
    ("fwl", {"fast": False}),
    *((name, options | SMALL) for name, options in VARIANTS),
    *((name, {"labels": labels} | SMALL) for name in FAST_HEADS for labels in ("no", "embedding")),
    *((name, {"fast": False} | SMALL) for name in FAST_HEADS),
]
IDS = ["-".join([name, *(f"{key}={value}" for key, value in slow.items())]) for name, slow in HEADS]


def random_head(model, name, slow):
    """A head in float64 whose state matters."""
    torch.manual_seed(0)
    cls = load(name)
    head = cls.slow_weights(model, build(cls.Slow, slow, name)).double()
    with torch.no_grad():
        for key, value in head.named_parameters():
            if value.dim() < 2:
                value.fill_(3.0) if "log_steps" in key else value.add_(torch.randn_like(value))
    return head


def streams(model, lanes=2, length=12):
    """hidden, labels and unembedding, in float64."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(lanes, length, model.hidden_size, generator=generator, dtype=torch.float64)
    labels = torch.randint(97, (lanes, length), generator=generator)
    return hidden, labels, model.unembedding.detach().double()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "slow"), HEADS, ids=IDS)
@torch.no_grad()
def test_training_and_evaluation_compute_what_forward_says(name, slow, llama):
    """Segments of any chunk, and streams cut anywhere whose lanes end apart, equal one chunk."""
    head = random_head(llama, name, slow)
    hidden, labels, unembedding = streams(llama)
    lengths = torch.tensor([12, 7])
    mask = torch.arange(12) < lengths[:, None]
    fresh_state = head.fresh_state(2)
    whole, after = head(hidden, labels, mask, unembedding, fresh_state)
    assert whole.shape == hidden.shape
    if head.adapts:
        assert any(not torch.equal(value, fresh_state[key]) for key, value in after.items())
    full = torch.ones_like(mask)
    alone, _ = head(hidden[:1], labels[:1], full[:1], unembedding, head.fresh_state(1))
    close(whole[:1], alone)
    for chunk in (4, 12):
        fresh = torch.zeros(2, 12 // chunk, dtype=torch.bool)
        cut, _ = head.segment(hidden, labels, full, unembedding, chunk, fresh, fresh_state)
        close(cut[mask], whole[mask])
    state = {key: value.clone() for key, value in fresh_state.items()}
    for start, stop in pairwise((0, 5, 6, 12)):
        scored = (lengths - start).clamp(0, stop - start)
        ids = torch.cat([torch.zeros(2, 1, dtype=torch.int64), labels[:, start : stop - 1]], dim=1)
        window = Window(ids, scored, scored, stop - start)
        held = {key: value.clone() for key, value in state.items()}
        piece, memo = head.start(hidden[:, start:stop], window, unembedding, state)
        close(piece[window.mask], whole[:, start:stop][window.mask])
        for key, value in state.items():
            assert torch.equal(value, held[key])
        if head.adapts:
            targets = labels[:, start:stop].masked_fill(~window.mask, 0)
            head.finish(memo, window, targets, unembedding, state)
    for key, value in after.items():
        close(state[key], value)


@pytest.mark.parametrize(("name", "slow"), HEADS, ids=IDS)
@torch.no_grad()
def test_labels_are_read_strictly_before_the_position(name, slow, llama):
    head = random_head(llama, name, slow)
    hidden, labels, unembedding = streams(llama, lanes=1)
    mask = torch.ones_like(labels, dtype=torch.bool)
    outputs, _ = head(hidden, labels, mask, unembedding, head.fresh_state(1))
    changed = labels.clone()
    changed[:, 5] = (labels[:, 5] + 1) % 97
    others, _ = head(hidden, changed, mask, unembedding, head.fresh_state(1))
    assert torch.equal(others[:, :6], outputs[:, :6])
    reads_labels = head.adapts and head.learns_from_labels
    assert torch.equal(others[:, 6:], outputs[:, 6:]) != reads_labels


@torch.no_grad()
def test_a_fresh_chunk_begins_with_the_fresh_state(llama):
    head = random_head(llama, "toy-delta", {})
    hidden, labels, unembedding = streams(llama)
    mask = torch.ones_like(labels, dtype=torch.bool)
    fresh = torch.tensor([[False, True, False], [False, False, False]])
    found, _ = head.segment(hidden, labels, mask, unembedding, 4, fresh, head.fresh_state(2))
    rest = (value[:1, 4:] for value in (hidden, labels, mask))
    alone, _ = head(*rest, unembedding, head.fresh_state(1))
    close(found[:1, 4:], alone)
    whole, _ = head(hidden[1:], labels[1:], mask[1:], unembedding, head.fresh_state(1))
    close(found[1:], whole)


@pytest.mark.parametrize("name", ["toy-delta", "toy-inputs"])
def test_a_head_of_one_file_passes_every_probe(name):
    report = check(name, None)
    assert {r.probe for r in report.results if r.status != "pass"} == {"off"}
    assert report.valid is True


@pytest.mark.parametrize("name", ["toy-delta", "toy-inputs"])
@pytest.mark.parametrize("shape", [StepShape(20, 20, 0), StepShape(20, 8, 0), StepShape(1, 1, 0)])
def test_flops_are_what_is_executed(name, shape, llama):
    report = check_flops(make_method(llama, name, weights="random"), shape, name, steps=2)
    assert report.agrees


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.mark.parametrize("method", ["toy-delta", "toy-inputs", "toy-delta:fast=no"])
def test_a_head_is_trained_saved_and_evaluated(method, texts, tmp_path):
    name = method.partition(":")[0]
    file = trained(method, texts, tmp_path)
    model = load_model("builtin:tiny", "float32", "cpu")
    found = SlowWeights.load(file, name, model)
    cls = load(name)
    module = cls.slow_weights(model, cls.Slow(**found.options))
    begun = module.gate.item(), module.keep.item()
    module.load_state_dict(found.tensors)
    assert module.gate.item() != pytest.approx(begun[0], rel=0.01)
    assert (module.keep.item() != begun[1]) == module.adapts
    training, engine = both_losses(model, name, module, file)
    assert training == pytest.approx(engine, rel=1e-5)
    documents = list(tokenized(str(texts / "0.txt"), model.tokenizer))
    sums = []
    for spec, params in (("none", {}), (name, {"weights": str(file)})):
        losses = run_method(make_method(model, spec, **params), documents, Protocol(chunk=32))
        sums.append(sum(float(value.sum()) for value in losses.values()))
    assert sums[1] < sums[0]


def test_training_reaches_the_first_state(texts, tmp_path, llama):
    head = random_head(llama, "toy-delta", {}).float()
    hidden, labels, unembedding = (
        value.float() if value.is_floating_point() else value for value in streams(llama)
    )
    mask, fresh = torch.ones_like(labels, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    held = {key: torch.zeros_like(value) for key, value in head.fresh_state(2).items()}
    outputs, _ = head.segment(hidden, labels, mask, unembedding, 12, fresh, held)
    outputs.square().sum().backward()
    assert head.begin.grad.abs().max() > 0


def test_weights_that_do_not_come_with_a_head_are_missed_in_a_sentence(llama):
    missing = "toy-delta: no trained weights for random-llama come .* --dataset builtin:stdlib"
    with pytest.raises(UsageError, match=missing):
        make_method(llama, "toy-delta")
    control = "toy-delta: no control weights .* train toy-delta:fast=no --base random-llama"
    with pytest.raises(UsageError, match=control):
        make_method(llama, "toy-delta", weights="control")
    with pytest.raises(UsageError, match="toy-delta: there is no file"):
        make_method(llama, "toy-delta", weights="nowhere.safetensors")


def test_random_weights_are_the_same_at_every_call_and_visible():
    model = tiny_model()
    document = random_document("d", 40, 3)
    one, two = (
        run_method(make_method(model, "toy-delta", weights="random"), [document])["d"]
        for _ in range(2)
    )
    assert (one == two).all()
    plain = run_method(make_method(model, "none"), [document])["d"]
    assert abs(one - plain).max() > 1e-3
