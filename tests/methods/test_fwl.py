"""Fast weight layers: the authors' numbers, the definition, and the stream."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from torch.nn import functional as F

from tta_bench import StepShape, UsageError, Window
from tta_bench.contract.registry import load
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.heads import loss_gradient
from tta_bench.validity.check import quick_checks
from tta_bench_methods.head.block.scale import unit_scale
from tta_bench_methods.head.fwl.cost import layer_flops
from tta_bench_methods.head.fwl.head import FastWeightHead, FastWeightOptions
from tta_bench_methods.head.fwl.layer import FAST, FastWeightLayer

PARAMETERS = {
    "layers_0/Dense_0/kernel": "w1",
    "layers_0/Dense_0/bias": "b1",
    "layers_2/Dense_0/kernel": "w2",
    "layers_2/Dense_0/bias": "b2",
    "layers_3/LayerNorm_0/scale": "alpha",
    "layers_3/LayerNorm_0/bias": "beta",
}
STEPS = {"step_size_0": ["w1"], "step_size_2": ["w2"], "step_size_3": ["alpha", "beta"]}


def from_golden(arrays):
    """The authors' layer, its unembedding [V, o] and that one's bias."""
    kernel1, kernel2 = (arrays[f"param/layers_{i}/Dense_0/kernel"] for i in (0, 2))
    fast = [name for names in STEPS.values() for name in names]  # their dense biases are not fast
    layer = FastWeightLayer((*kernel1.shape, kernel2.shape[1]), fast).double()
    with torch.no_grad():
        for theirs, ours in PARAMETERS.items():
            layer.get_parameter(ours).copy_(arrays[f"param/{theirs}"])
        for theirs, names in STEPS.items():
            for name in names:
                layer.log_steps[name].fill_(arrays[f"param/{theirs}"].log())
    kernel = arrays["param/unembed/kernel"].mT.clone().requires_grad_()
    return layer, kernel, arrays["param/unembed/bias"].clone().requires_grad_()


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", golden("fwl"))
@pytest.mark.parametrize("chunk", ["whole", "quarters"])
def test_agrees_with_the_authors_module(path, chunk):
    arrays = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    layer, kernel, bias = from_golden(arrays)
    labels, weights = arrays["labels"], arrays["weights"]
    mean = weights / weights.sum().clamp_min(1e-8)

    def unembed(y):
        return y @ kernel.mT + bias

    length = labels.shape[1]
    pieces = length if chunk == "whole" else length // 4
    slow, fast, _ = layer(arrays["x"], labels, mean, unembed, chunk=pieces)
    close(unembed(slow), arrays["slow_logits"])
    logits = unembed(fast)
    close(logits, arrays["fast_logits"])
    nll = F.cross_entropy(logits.mT, labels, reduction="none")
    close(nll, arrays["nll"])
    loss = (nll * mean).sum()
    close(loss, arrays["loss"])
    loss.backward()
    for theirs, ours in PARAMETERS.items():
        close(layer.get_parameter(ours).grad, arrays[f"grad/{theirs}"])
    for theirs, names in STEPS.items():  # ours are logarithms
        slope = sum(layer.log_steps[name].grad[0] for name in names)
        close(slope / arrays[f"param/{theirs}"], arrays[f"grad/{theirs}"])
    close(kernel.grad.mT, arrays["grad/unembed/kernel"])
    close(bias.grad, arrays["grad/unembed/bias"])


# --- the definition -------------------------------------------------------------------------


LIVES = {"off": (), "one": (5.0,), "two": (2.0, 40.0)}


KINDS = ("off", "learned", "running")


def small_layer(fast=FAST, eps=1e-6, seed=0, sizes=(5, 7, 4), lives=(), kind="off"):
    """A float64 layer with random weights and step sizes, large enough to matter."""
    torch.manual_seed(seed)
    layer = FastWeightLayer(sizes, fast, half_lives=lives, eps=eps, precondition=kind).double()
    with torch.no_grad():
        for value in layer.preconditioners.parameters():
            value.normal_(std=0.5)
        for name in FAST:
            layer.get_parameter(name).normal_()
        for steps in layer.log_steps.values():
            steps.copy_((0.2 + torch.rand(steps.shape)).log())
        for value in layer.log_half_lives.values():
            value += 0.3 * torch.randn(value.shape)
    return layer


def small_streams(layer, lanes, length, seed=0, vocab=9):
    """x, labels, weights, E and skip."""
    generator = torch.Generator().manual_seed(seed)
    inner, outer = layer.w1.shape[0], layer.w2.shape[1]
    x = torch.randn(lanes, length, inner, generator=generator, dtype=torch.float64)
    skip = torch.randn(lanes, length, outer, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocab, (lanes, length), generator=generator)
    weights = torch.rand(lanes, length, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(lanes, length, generator=generator) < 0.8) / 5
    unembedding = torch.randn(vocab, outer, generator=generator, dtype=torch.float64) / 2
    return x, labels, weights, unembedding, skip


def one_step_at_a_time(layer, x, labels, weights, unembedding, skip):
    """Each position with the weights a gradient step on each earlier one gives, by autograd.

    The step that position s gave has faded by 2^(-(t-1-s) / half-life) when t reads.
    """
    slow = {name: layer.get_parameter(name).detach().requires_grad_() for name in FAST}
    kinds = {"w1": "first", "b1": "first", "w2": "second", "b2": "second"}

    def block(p, x, skip):
        z2 = (x @ p["w1"] + p["b1"]).relu() ** 2 @ p["w2"] + p["b2"]
        return F.layer_norm(z2, z2.shape[-1:], p["alpha"], p["beta"], layer.eps) + skip

    def left(name, age):
        steps = layer.log_steps[name].exp()
        kind = kinds.get(name, "norm")
        if kind not in layer.log_half_lives:
            return steps.sum()
        return (steps * 2.0 ** (-age / layer.log_half_lives[kind].exp())).sum()

    def preconditioned(name, step, keys):
        """P, Q around the step of a kernel, Q behind that of its bias; keys [t + 1, in] so far."""
        kernel = {"b1": "w1", "b2": "w2"}.get(name, name)
        given = dict(layer.preconditioners[kernel].named_parameters()) if kernel in keys else {}
        if "mixed" in given:
            matrix, factors = given["mixed"], given["factors"]
            narrow, wide = torch.eye(len(matrix)) + matrix, factors.exp().diag()
            inner, outer = slow[kernel].shape
            before, behind = (narrow, wide) if inner <= outer else (wide, narrow)
            return (before @ step if name == kernel else step) @ behind
        if "expected" in given and name == kernel:
            moments = given["expected"].exp()
            seen = 64 * moments + keys[kernel].square().sum(0)
            return ((64 + len(keys[kernel])) * moments / seen)[:, None] * step
        return step

    outputs = torch.zeros_like(skip)
    for lane in range(x.shape[0]):
        gradients = []
        for t in range(x.shape[1]):
            fast, so_far = dict(slow), x[lane, : t + 1]
            keys = {"w1": so_far, "w2": (so_far @ slow["w1"] + slow["b1"]).relu() ** 2}
            keys = {name: value for name, value in keys.items() if name in layer.fast}
            for name in layer.log_steps:
                step = torch.zeros_like(slow[name])
                for s, gradient in enumerate(gradients):
                    step = step + left(name, t - 1 - s) * gradient[name]
                fast[name] = slow[name] - preconditioned(name, step, keys)
            outputs[lane, t] = block(fast, x[lane, t], skip[lane, t])
            y = block(slow, x[lane, t], skip[lane, t])
            nll = F.cross_entropy(y @ unembedding.mT, labels[lane, t]) * weights[lane, t]
            gradients.append(
                dict(zip(FAST, torch.autograd.grad(nll, list(slow.values())), strict=True))
            )
    return outputs.detach()


@pytest.mark.parametrize("lives", LIVES.values(), ids=LIVES)
@pytest.mark.parametrize(
    ("fast", "kind"),
    [
        *((fast, "off") for fast in (("w1",), ("w2",), ("b1", "alpha"), ("b2", "beta"), ())),
        *((fast, kind) for kind in KINDS for fast in (FAST, ("w1", "b2"))),
        (("w2", "b2"), "learned"),
        (("w2",), "running"),
    ],
)
def test_equals_a_gradient_step_on_the_prefix_at_every_token(fast, kind, lives):
    layer = small_layer(fast, lives=lives, kind=kind)
    streams = small_streams(layer, lanes=2, length=12)
    expected = one_step_at_a_time(layer, *streams)
    with torch.no_grad():
        slow, found, _ = layer(*streams)
        _, chunked, _ = layer(*streams, chunk=4)
    close(found, expected, 1e-12)
    close(chunked, expected, 1e-12)
    if fast:
        assert (found - slow).abs().max() > 0.01


@pytest.mark.parametrize("slice_bytes", [2**27, 1])  # logits of all positions at once, and of one
def test_the_written_out_gradient_is_autograds(slice_bytes, monkeypatch):
    monkeypatch.setattr("tta_bench.heads.inner_loss.SLICE_BYTES", {"cpu": slice_bytes})
    layer = small_layer()
    x, labels, weights, unembedding, skip = small_streams(layer, lanes=2, length=6)
    y = layer.slow(x, skip).y
    with torch.no_grad():
        written = loss_gradient(y, labels, weights, unembedding)
        through = loss_gradient(y, labels, weights, lambda y: y @ unembedding.mT)
    close(written, through, 1e-14)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_streaming_equals_one_shot(data):
    """Any cut into chunks; lanes of different lengths; the last label of a chunk comes late."""
    fast = data.draw(st.sampled_from([FAST, ("w2",), ("w1", "b2", "alpha")]))
    lives = data.draw(st.sampled_from(list(LIVES.values())))
    kind = data.draw(st.sampled_from(KINDS))
    length = data.draw(st.integers(1, 14))
    lengths = data.draw(st.lists(st.integers(0, length), min_size=1, max_size=3))
    cuts = data.draw(st.lists(st.integers(0, length), max_size=5))
    layer = small_layer(fast, lives=lives, kind=kind)
    x, labels, weights, unembedding, skip = small_streams(layer, len(lengths), length)
    weights = weights * (torch.arange(length) < torch.tensor(lengths)[:, None])
    state = layer.empty_state(len(lengths))
    pieces = []
    with torch.no_grad():
        for start, stop in pairwise(sorted({0, length, *cuts})):
            slow = layer.slow(x[:, start:stop], skip[:, start:stop])
            inside, last = slice(start, stop - 1), slice(stop - 1, stop)
            writes = layer.writes(
                slow.at(slice(0, -1)), labels[:, inside], weights[:, inside], unembedding
            )
            pieces.append(layer.read(slow, writes, state))
            state = layer.write(writes, state)
            final = slow.at(torch.full((len(lengths), 1), stop - 1 - start))
            final = layer.writes(final, labels[:, last], weights[:, last], unembedding)
            state = layer.write(final, state)
        _, expected, after = layer(x, labels, weights, unembedding, skip)
    close(torch.cat(pieces, dim=1), expected, 1e-12)
    for name, value in after.items():
        close(state[name], value, 1e-12)


def test_a_fresh_chunk_knows_nothing_of_what_was_before():
    layer = small_layer(lives=(6.0,))
    x, labels, weights, unembedding, skip = small_streams(layer, lanes=2, length=12)
    fresh = torch.tensor([[False, True, False], [False, False, False]])
    with torch.no_grad():
        _, found, _ = layer(x, labels, weights, unembedding, skip, 4, fresh)
        _, whole, _ = layer(x, labels, weights, unembedding, skip, 4)
        rest = (v[:1, 4:] for v in (x, labels, weights))
        _, alone, _ = layer(*rest, unembedding, skip[:1, 4:], 4)
    close(found[0, 4:], alone[0], 1e-12)
    close(found[1], whole[1], 1e-12)


# --- the method -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact_model():
    return tiny_model(dtype=torch.float64)


def fwl(model, lanes=1, **params):
    # Random models have large unembeddings: a larger reach makes the adaptation visible.
    return make_method(model, "fwl-untrained", lanes, **({"step": 3.0, "reach": 30.0} | params))


def one_shot(model, document):
    """The document's losses from the layer's one-shot pass, chunked as `chunk` says."""

    def losses(chunk):
        method = fwl(model)
        ids = torch.tensor([PREFIX, *document.token_ids.tolist()])[None]
        with torch.no_grad():
            hidden = torch.cat(
                [model.hidden(whole_window(piece)) for piece in ids[:, :-1].split(chunk, dim=1)],
                dim=1,
            )
            labels = ids[:, 1:]
            weights = torch.full(labels.shape, 1 / 1024, dtype=torch.float64)
            _, fast, _ = method.head.layer(
                unit_scale(hidden), labels, weights, method.unembedding, hidden
            )
            return F.cross_entropy(model.unembed(fast).mT, labels, reduction="none")[0].numpy()

    return losses


def whole_window(ids):
    length = torch.tensor([ids.shape[1]])
    return Window(ids, length, length, ids.shape[1])


@pytest.mark.parametrize("chunk", [1, 7, 16, 50])
def test_the_stream_is_the_one_shot_pass(exact_model, chunk):
    document = random_document("d", 50, 3)
    protocol = Protocol(chunk=chunk)
    found = run_method(fwl(exact_model), [document], protocol)["d"]
    np.testing.assert_allclose(found, one_shot(exact_model, document)(chunk), atol=1e-5)
    plain = run_method(make_method(exact_model, "none"), [document], protocol)["d"]
    assert np.abs(found - plain).max() > 0.1


def test_chunk_length_does_not_matter_where_the_model_sees_the_same(exact_model):
    """A cache gives the model all of its past, so that only FWL's own chunking is left."""
    document = random_document("d", 60, 4)
    runs = [
        run_method(
            fwl(exact_model), [document], Protocol(chunk=chunk, context=60, context_mode="cache")
        )["d"]
        for chunk in (4, 13, 60)
    ]
    for losses in runs[1:]:
        np.testing.assert_allclose(losses, runs[0], atol=1e-6)


def test_lanes_are_strangers(llama, documents):
    alone = run_method(fwl(llama), documents)
    together = run_method(fwl(llama, lanes=3), documents)
    others = [random_document(document.key, 55, 90) for document in documents]
    neighbour = run_method(fwl(llama, lanes=2), [documents[0], *others[1:]])
    for document in documents:
        np.testing.assert_allclose(together[document.key], alone[document.key], atol=2e-4)
    first = documents[0].key
    np.testing.assert_allclose(neighbour[first], alone[first], atol=2e-4)


def test_reset_makes_a_lane_new_bit_for_bit(llama):
    document, other = random_document("d", 40, 5), random_document("o", 40, 6)
    fresh = run_method(fwl(llama), [document])["d"]
    used = fwl(llama)
    run_method(used, [other])
    assert used.state["w2"].abs().max() > 0
    used.reset(0)
    assert torch.equal(used.state["w2"], fwl(llama).state["w2"])
    np.testing.assert_array_equal(run_method(used, [document])["d"], fresh)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_zero_is_the_plain_model_exactly(documents, dtype):
    model = tiny_model(dtype=dtype)
    off = run_method(fwl(model, lanes=2, step=0), documents)
    none = run_method(make_method(model, "none", lanes=2), documents)
    on = run_method(fwl(model, lanes=2), documents)
    for key, losses in none.items():
        np.testing.assert_array_equal(off[key], losses)
        assert not np.array_equal(on[key], losses)


def test_state_is_float32_where_the_model_is_not():
    method = fwl(tiny_model(dtype=torch.bfloat16))
    assert {value.dtype for value in method.state.values()} == {torch.float32}
    assert method.state_bytes() == 4 * (4 * 32) * 32


def test_scoring_changes_nothing_and_does_not_see_the_future(llama):
    method = fwl(llama)
    ids = torch.from_numpy(random_document("d", 49, 7).token_ids.astype(np.int64))[None]
    with torch.no_grad():
        before = whole_window(ids[:, :16])
        method.score(before)
        method.adapt(before, ids[:, 1:17], torch.zeros(1, 16))
        held = method.state["w2"].clone()
        window = whole_window(ids[:, 16:32])
        first, again = (method.score(window).full() for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(method.state["w2"], held)
        for start in (1, 8, 15):
            changed = window.input_ids.clone()
            changed[:, start:] = (changed[:, start:] + 1) % 97
            other = method.score(whole_window(changed)).full()
            torch.testing.assert_close(other[:, :start], first[:, :start], rtol=0, atol=1e-4)
            assert not torch.allclose(other[:, start:], first[:, start:], atol=1e-2)


def test_repetition_is_learned(llama):
    """The document repeats a phrase: the defaults must profit on a model that knows nothing."""
    document = random_document("d", 400, 8)
    found = run_method(make_method(llama, "fwl-untrained"), [document])["d"]
    plain = run_method(make_method(llama, "none"), [document])["d"]
    assert found[200:].mean() < plain[200:].mean() - 0.02


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("shape", [StepShape(20, 20, 0), StepShape(20, 8, 0), StepShape(1, 1, 0)])
def test_flops_are_what_is_executed(family, shape):
    report = check_flops(fwl(tiny_model(family)), shape, "fwl", steps=2)
    assert report.warnings == ()
    assert report.agrees


def test_flops_of_the_full_block_are_those_of_the_specification():
    d, chunk = 8, 33
    layer = small_layer(sizes=(d, 4 * d, d))
    assert layer_flops(layer, chunk) == chunk * (56 * d * d + 20 * d * (chunk - 1))


@pytest.mark.parametrize("kind", ["learned", "running"])
def test_flops_of_a_preconditioned_block_are_what_is_executed(llama, kind):
    method = probed(kind, forget="off")
    method = method(llama, method.Params(weights="random"), 1)
    assert check_flops(method, StepShape(20, 20, 0), "fwl", steps=2).agrees


@slow
@pytest.mark.parametrize("kind", ["learned", "running"])
def test_a_preconditioned_block_passes_every_quick_check(kind):
    method = probed(kind, rates=2, span=64.0)
    assert quick_checks(method, method.Params(), "fwl").valid is True


def probed(kind, **options):
    """`fwl` whose weights for checks have a preconditioner that matters."""

    class Probed(load("fwl")):
        @classmethod
        def random_weights(cls, model):
            slow = FastWeightOptions(precondition=kind, **options)
            head = FastWeightHead(model.hidden_size, slow)
            head.layer.alpha.normal_()
            for value in head.layer.log_steps.values():
                value.fill_(3.0)
            for value in head.layer.preconditioners.parameters():
                value.normal_(std=0.3)
            return head

    return Probed


def test_half_lives_start_as_far_apart_as_span_says():
    assert FastWeightOptions(rates=2).half_lives == (512.0, 64.0)
    assert FastWeightOptions(rates=2, span=64).half_lives == pytest.approx((64.0, 4096.0))
    assert FastWeightOptions(rates=3, span=64).half_lives == pytest.approx((64.0, 512.0, 4096.0))
    with pytest.raises(ValueError, match="span"):
        FastWeightOptions(span=64)


def test_a_preconditioner_begins_as_the_plain_step():
    plain = FastWeightHead(6, FastWeightOptions(rates=2)).layer
    x, labels, weights, unembedding, skip = small_streams(small_layer(sizes=(6, 24, 6)), 1, 4)
    streams = x.float(), labels, weights.float(), unembedding.float(), skip.float()
    with torch.no_grad():
        plain.alpha.normal_()
        _, expected, _ = plain(*streams)
        layer = FastWeightHead(6, FastWeightOptions(rates=2, precondition="learned")).layer
        missing, _ = layer.load_state_dict(plain.state_dict(), strict=False)
        assert len(missing) == 4
        close(layer(*streams)[1], expected, 1e-6)


@pytest.mark.parametrize("params", [{"step": -1}, {"reach": 0}, {"width": 0}])
def test_parameters_out_of_range_are_refused(llama, params):
    with pytest.raises(UsageError):
        fwl(llama, **params)
