"""TTT-E2E: the authors' numbers, plain loops with automatic differentiation, and the stream."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from e2e_model import FAST, PRIME, EndToEndModel
from golden import golden
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from torch.nn import functional as F
from transformers import Olmo2Config, Olmo2ForCausalLM

from tta_bench import LanguageModel, StepShape, UsageError
from tta_bench.contract.choice import choose
from tta_bench.contract.registry import load
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.training.loss import SegmentLoss
from tta_bench_methods.parameter.ttt_e2e.descent import descended
from tta_bench_methods.parameter.ttt_e2e.prime import PrimeOptions

NAME = "ttt-e2e"
NEAR = {"rtol": 0, "atol": 5e-6}  # the authors' numbers are of float32
TWO = {"blocks": 2, "width": 12}

# --- the authors' numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("path", golden(NAME))
def test_losses_steps_and_gradients_through_them_are_the_authors(path):
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: torch.from_numpy(np.asarray(value)) for name, value in stored.items()}
    arrays = {k: v.double() if v.is_floating_point() else v for k, v in arrays.items()}
    parameters = {
        name.removeprefix("param."): value.requires_grad_()
        for name, value in arrays.items()
        if name.startswith("param.")
    }
    model = EndToEndModel(parameters, arrays["meta"].tolist())
    found = model.read(arrays["ids"], arrays["loss_masks"], float(arrays["ilr"]))
    for name, value in (
        ("prefix_output", found.prefix),
        ("token_nll", found.nll),
        ("chunk_loss", found.losses),
        ("loss", found.losses.mean()),
    ):
        torch.testing.assert_close(value, arrays[name], **NEAR)
    for step, weights in enumerate(found.weights):
        for name, theirs in FAST.items():
            for number, expected in enumerate(arrays[f"prime_{theirs}_step{step}"]):
                torch.testing.assert_close(weights[f"{number}.{name}"][0].mT, expected, **NEAR)
    moved = [
        sum((after[name] - before[name]).square().sum() for name in before).sqrt()
        for before, after in pairwise(found.weights)
    ]
    expected = arrays["ilr"] * arrays["inner_grad_norm"].clamp(max=1.0)
    torch.testing.assert_close(torch.stack(moved), expected, **NEAR)
    gradients = torch.autograd.grad(found.losses.mean(), list(parameters.values()))
    for name, gradient in zip(parameters, gradients, strict=True):
        wanted = arrays[f"outer_grad.{name}"]
        near = 2e-5 * float(wanted.abs().max())
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=near)
    assert gradients[list(parameters).index(f"{PRIME}feed_forward_prime.w1.weight")].any()


# --- plain loops --------------------------------------------------------------------------------


def rms(x, gain):
    return torch.stack([row * gain / ((row * row).mean() + 1e-6).sqrt() for row in x])


def literal_logits(net, patches, weights, ids):
    """Logits [T, V] of ids [T]: a Llama block by block, with a prime MLP in the last ones."""
    body, positions = net.model, torch.arange(len(ids))[None]
    x = body.embed_tokens(ids[None])
    turns = body.rotary_emb(x, positions)
    future = torch.full((len(ids), len(ids)), -torch.inf, dtype=x.dtype).triu(1)[None, None]
    first = len(body.layers) - len(patches)
    for number, block in enumerate(body.layers):
        n = block.input_layernorm(x)
        x = x + block.self_attn(n, position_embeddings=turns, attention_mask=future)[0]
        if number >= first:
            patch, own = patches[number - first], weights[number - first]
            n = rms(x[0], patch.before)
            units = F.silu(n @ own["gate"].T) * (n @ own["up"].T)
            x = x + rms(units @ own["down"].T, patch.after)[None]
        x = x + block.mlp(block.post_attention_layernorm(x))
    return net.lm_head(body.norm(x))[0]


def literal_steps(net, patches, distances, ids, chunk, context=0, rate=1.0):
    """Losses of each chunk, and how far weights have moved at the end, by plain autograd."""
    losses = []
    for start in range(0, len(ids) - 1, chunk):
        stop, left = min(start + chunk, len(ids) - 1), max(0, start - context)
        weights = [
            {k: getattr(patch, k) + moved[k] for k in moved}
            for patch, moved in zip(patches, distances, strict=True)
        ]
        logits = literal_logits(net, patches, weights, ids[left:stop])[start - left :]
        nll = F.cross_entropy(logits, ids[start + 1 : stop + 1], reduction="none")
        losses.append(nll)
        leaves = [value for own in weights for value in own.values()]
        slopes = torch.autograd.grad(nll.mean(), leaves, create_graph=True)
        norm = sum((slope * slope).sum() for slope in slopes).sqrt()
        scale, steps = (rate if norm < 1 else rate / norm), iter(slopes)
        distances = [{k: moved[k] - scale * next(steps) for k in moved} for moved in distances]
    return losses, distances


def at_rest(patches):
    return [{k: torch.zeros_like(getattr(patch, k)) for k in FAST} for patch in patches]


@pytest.fixture(scope="module")
def double():
    model = tiny_model(dtype=torch.float64)
    model.net.set_attn_implementation("eager")
    return model


@pytest.fixture
def two_blocks(monkeypatch):
    monkeypatch.setattr(load(NAME), "Slow", lambda **options: PrimeOptions(**TWO | options))


@pytest.mark.parametrize(("lanes", "context"), [(1, 0), (2, 0), (2, 8)])
def test_the_stream_is_a_plain_loop(double, two_blocks, lanes, context):
    documents = [random_document("a", 60, 0), random_document("b", 41, 1)]
    method = make_method(double, NAME, lanes, weights="random", step=0.7)
    mode = "recompute" if context else "none"
    found = run_method(method, documents, Protocol(chunk=16, context=context, context_mode=mode))
    patches = [patch.requires_grad_() for patch in method.module.patches]
    for document in documents:
        ids = torch.tensor([PREFIX, *document.token_ids])
        losses, _ = literal_steps(double.net, patches, at_rest(patches), ids, 16, context, 0.7)
        np.testing.assert_allclose(
            found[document.key], torch.cat(losses).detach().numpy(), atol=2e-6
        )
        plain, _ = literal_steps(double.net, patches, at_rest(patches), ids, 16, context, 0.0)
        moved = found[document.key] - torch.cat(plain).detach().numpy()
        assert np.abs(moved[:16]).max() < 2e-6  # nothing was learned before
        assert np.abs(moved[16:]).max() > 0.1


def with_noise(module):
    for value in module.parameters():
        if value.dim() == 1:
            torch.nn.init.normal_(value, mean=1.0, std=0.3)
        else:
            value.data *= 10.0
    return module


@pytest.mark.parametrize("body", ["frozen", "joint"])
def test_training_is_segments_unrolled_by_plain_autograd(body):
    """Their losses and gradients; the second segment goes on in the document of the first."""
    model = tiny_model(dtype=torch.float64)
    model.net.set_attn_implementation("eager")
    torch.manual_seed(0)
    module = with_noise(load(NAME).slow_weights(model, PrimeOptions(**TWO, rate=0.5))).double()
    own = module.attach(model)
    own.net.requires_grad_(body == "joint")
    loss = SegmentLoss(own, module, body == "joint", (12,), 12, 1, 1.0)
    ids = torch.tensor([PREFIX, *random_document("a", 72, 3).token_ids])
    mask, lane = torch.ones(1, 36, dtype=torch.bool), torch.tensor([0])
    distances = at_rest(module.patches)
    slow_weights = dict(module.named_parameters())
    if body == "joint":
        slow_weights |= dict(own.net.named_parameters())
    for start in (0, 36):
        part = ids[start : start + 37]
        fresh = torch.tensor([[start == 0, False, False]])
        found = loss(part[None, :-1], part[None, 1:], mask, fresh, lane)["loss"]
        gradients = torch.autograd.grad(found, list(slow_weights.values()))
        distances = [{k: v.detach().float().double() for k, v in d.items()} for d in distances]
        losses, distances = literal_steps(own.net, module.patches, distances, part, 12, rate=0.5)
        total = torch.cat(losses).sum()
        torch.testing.assert_close(found, total, rtol=1e-6, atol=0, check_dtype=False)
        expected = torch.autograd.grad(total, list(slow_weights.values()))
        for gradient, wanted in zip(gradients, expected, strict=True):
            assert wanted.any()
            near = 2e-5 * float(wanted.abs().max())
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=near)


def test_a_lane_is_cut_by_the_norm_of_its_own_gradient():
    target = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    start = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    values = {"a": start + 0, "b": start + 0}
    losses = -(torch.cat(list(values.values()), 1) * target).sum(1)
    after = descended(values, losses, 0.5, through=True)
    moved = torch.cat([after["a"], after["b"]], 1)
    expected = torch.tensor([[0.3, 0.4], [0.15, 0.2], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected)


def test_a_gradient_of_nothing_has_finite_second_derivatives():
    """As training begins: the gain is zero, and so is the gradient of what lies before it."""
    gain = torch.zeros((), requires_grad=True)
    values = {"w": torch.ones(1, 3).requires_grad_()}
    after = descended(values, (gain * values["w"].square()).sum(1), 1.0, through=True)
    (slope,) = torch.autograd.grad(after["w"].sum(), gain)
    assert slope == -6.0


# --- the method ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    ["llama", *(pytest.param(name, marks=slow) for name in ("gpt2", "gpt-neox", "gemma3"))],
)
def test_untrained_it_is_the_model_bit_for_bit_however_it_steps(family, documents):
    model = tiny_model(family)
    method = make_method(model, NAME, 2, weights="random")
    moving = run_method(method, documents)
    for patch in method.module.patches:
        patch.after.zero_()  # as training begins
    found = run_method(method, documents)
    for key, losses in run_method(make_method(model, "none", 2), documents).items():
        assert np.array_equal(found[key], losses)
        assert np.abs(moving[key] - losses).max() > 1e-2


def test_controls_are_the_same_weights_that_do_not_step_and_that_step_unprepared(
    llama, documents, monkeypatch
):
    adapting, still = (
        make_method(llama, NAME, 2, weights="random", **params) for params in ({}, {"step": 0})
    )
    stepped, off = run_method(adapting, documents), run_method(still, documents)
    monkeypatch.setattr(load(NAME), "Slow", lambda: PrimeOptions(fast=False))
    control = make_method(llama, NAME, 2, weights="random")
    naive = make_method(llama, NAME, 2, weights="random", step=1)
    unstepped, unprepared = run_method(control, documents), run_method(naive, documents)
    for key in off:
        assert np.array_equal(unstepped[key], off[key])
        assert np.array_equal(unprepared[key], stepped[key])
    assert max(np.abs(stepped[key] - off[key]).max() for key in off) > 1e-2
    assert not any(value.requires_grad for value in adapting.state.values())  # no graph lives on
    assert still.state_bytes() == control.state_bytes() == 0
    assert adapting.state_bytes() == naive.state_bytes() == 4 * 3 * 32 * 48


@pytest.mark.parametrize("blocks", [1, 2])
def test_keys_of_a_carried_cache_are_those_of_their_time(llama, monkeypatch, blocks):
    """In the last block a prime MLP stands behind all keys: reading them again is the same."""
    monkeypatch.setattr(load(NAME), "Slow", lambda: PrimeOptions(blocks=blocks))
    document = random_document("a", 24, 3)
    carried, again = (
        run_method(
            make_method(llama, NAME, weights="random"),
            [document],
            Protocol(chunk=8, context=32, context_mode=mode),
        )["a"]
        for mode in ("cache", "recompute")
    )
    np.testing.assert_allclose(carried[:8], again[:8], atol=1e-5)
    assert (np.abs(carried[8:] - again[8:]).max() > 1e-3) == (blocks == 2)


@pytest.mark.parametrize(
    "spec",
    [
        f"{NAME}:weights=random",
        f"{NAME}:weights=random,step=0",
        pytest.param(f"window:context=8+{NAME}:weights=random,step=0", marks=slow),
        pytest.param(f"window:context=8+{NAME}:weights=random+neural-cache:window=40", marks=slow),
    ],
)
def test_flops_are_what_is_executed(llama, two_blocks, spec):
    choice = choose(spec)
    method = choice.cls(llama, choice.params, 2)
    assert check_flops(method, StepShape(16, 16, 0), spec, steps=2).agrees


@pytest.mark.parametrize(
    "options",
    [{"blocks": -1}, {"width": -1}, {"rate": 0.0}],
    ids=lambda options: next(iter(options)),
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        PrimeOptions(**options)


def test_what_cannot_be_had_is_refused_in_a_sentence(llama):
    cls = load(NAME)
    with pytest.raises(ValueError, match="step must be at least 0"):
        cls.Params(step=-1.0)
    with pytest.raises(UsageError, match="blocks=4: random-llama has 3 blocks"):
        cls.slow_weights(llama, PrimeOptions(blocks=4))
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = Olmo2Config(vocab_size=20, num_hidden_layers=2, pad_token_id=0, **shape)
    after = LanguageModel(Olmo2ForCausalLM(config), None, "norms-come-after")
    with pytest.raises(UsageError, match="norms-come-after has blocks without one"):
        cls.needs(cls.Params(), after, StepShape(8, 8, 0))
