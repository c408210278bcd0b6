"""Titans: the numbers of two implementations, the definition, and the stream."""

import json
import math

import numpy as np
import pytest
import torch
from golden import cases, golden
from torch.nn import functional as F

from tta_bench_methods.head.titans.memory import TitansMemory, TitansOptions
from tta_bench_methods.head.titans.network import (
    Steps,
    Weights,
    moved,
    read_moving,
    standardised,
    steps,
    through_moving,
    through_norm,
)
from tta_bench_methods.head.titans.scan import Scan, momentum_scan


def facts_of(path):
    """What a file says of its cases: sizes, and whose parameters a case has."""
    with np.load(path, allow_pickle=False) as arrays:
        return json.loads(str(arrays["meta_json"]))["cases"]


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def close_gradients(loss, inputs, arrays):
    """Gradients of the fixture's loss, to 1e-7 of the largest entry of each."""
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    for name, gradient in zip(inputs, gradients, strict=True):
        expected = arrays[f"grad/{name}"]
        close(gradient, expected, 1e-7 * float(expected.abs().max()))


# --- lucidrains/titans-pytorch ----------------------------------------------------------------


def of_tokens(scan, chunk, queries, stored):
    """The scan of chunks, of which the first stands for nothing yet, as one of tokens."""
    rows = (torch.arange(queries) + 1) // chunk
    columns = torch.arange(stored) // chunk + 1
    return Scan(
        scan.left[..., rows],
        scan.pushed[..., rows],
        scan.coupling[..., rows, :][..., columns],
        scan.surviving,
        scan.recent[..., columns],
    )


def neural_memory(p, x, chunk, size):
    """The other implementation's module around our memory: outputs, M and S.

    There momentum and forgetting happen once a chunk, the loss is a mean over features, and the
    last token of a chunk reads what that chunk has written, the others what was before it.
    """
    heads = len(p["to_momentum.0.bias"])

    def split(z):
        return z.unflatten(-1, (heads, -1)).transpose(1, 2)

    stores, reads = (
        F.rms_norm(x, x.shape[-1:], p[f"{kind}_norm.weight"]) for kind in ("store", "retrieve")
    )
    k, v, q = (
        split(source @ p[f"to_{name}.weight"].mT)
        for source, name in ((stores, "keys"), (stores, "values"), (reads, "queries"))
    )

    def gate(name, source):
        return F.linear(source, p[f"{name}.0.weight"], p[f"{name}.0.bias"]).mT

    rates = gate("to_adaptive_step", stores).sigmoid() * 2 / q.shape[-1]
    first, *layers = (
        p[f"memory_model_parameters.{i}"].expand(len(x), *[-1] * n)
        for i, n in ((0, 2), (1, 3), (2, 3))
    )
    memory = Weights(first, tuple(layers))
    momentum = Weights(torch.zeros_like(first), tuple(torch.zeros_like(z) for z in layers))
    outputs = []
    for start in range(0, x.shape[1], size):
        part = slice(start, min(start + size, x.shape[1]))
        count = part.stop - start
        stored = count // chunk * chunk
        means = stores[:, start : start + stored].unflatten(1, (-1, chunk)).mean(2)
        log_keep = F.logsigmoid(-gate("to_decay_factor", means))
        log_momentum = F.logsigmoid(gate("to_momentum", means))
        written = F.pad(torch.ones_like(log_keep), (1, 0))
        scan = momentum_scan(F.pad(log_keep, (1, 0)), F.pad(log_momentum, (1, 0)), written)
        scan = of_tokens(scan, chunk, count, stored)
        store = slice(start, start + stored)
        taken = steps(memory, k[:, :, store], v[:, :, store], rates[:, :, store])
        outputs.append(read_moving(memory, momentum, taken, scan, q[:, :, part]))
        memory, momentum = moved(memory, momentum, taken, scan)
    out = torch.cat(outputs, 2).transpose(1, 2)  # [B, N, H, w]
    if heads > 1:
        out = out * (reads @ p["retrieve_gate.0.weight"].mT).sigmoid()[..., None]
    out = out.flatten(2)
    if "combine_heads.weight" in p:
        out = out @ p["combine_heads.weight"].mT
    return out, memory, momentum


@pytest.mark.parametrize("path", golden("titans"))
def test_agrees_with_titans_pytorch(path):
    found = cases(path)
    for case, facts in facts_of(path).items():
        arrays = found[case]
        own = found[facts["params_from"]]
        p = {
            name.removeprefix("param/"): value.clone().requires_grad_()
            for name, value in own.items()
            if name.startswith("param/")
        }
        x = arrays["x"].clone().requires_grad_()
        size = facts.get("batch_size") or x.shape[1]
        out, memory, momentum = neural_memory(p, x, facts["chunk"], size)
        close(out, arrays["out"])
        loss = (out * arrays["loss_weight"]).sum()
        for name, weights in (("final_M", memory), ("final_S", momentum)):
            for number, value in enumerate((weights.gain, *weights.layers)):
                expected = arrays[f"{name}/{number}"]
                value = value.flatten(0, 1)
                close(value, expected)
                loss = loss + (value * arrays[f"loss_weight_{name}/{number}"]).sum()
        close_gradients(loss, p | {"x": x}, arrays)


# --- flash-linear-attention -------------------------------------------------------------------


def as_coded(gradient, unit, deviation):
    """The other code's expression: the first term is not divided by the deviation."""
    width = gradient.shape[-1]
    rest = gradient.sum(-1, keepdim=True) + unit * (gradient * unit).sum(-1, keepdim=True)
    return width * gradient - rest / (width * deviation)


def linear_memory(a, chunk, backward):
    """A matrix as memory, behind it an LN of fixed weights: reads, and the matrix at the end."""
    q, k, v, theta, alpha, eta = (
        a[name].transpose(1, 2) for name in ("q", "k", "v", "theta", "alpha", "eta")
    )
    gain, bias = a["w"][:, None], a["b"][:, None]
    memory = a.get("initial_state")
    if memory is None:
        memory = q.new_zeros(*q.shape[:2], q.shape[-1], q.shape[-1])
    nothing = q.new_zeros(*q.shape[:2], q.shape[-1])
    held, outputs = torch.zeros_like(memory), []
    for start in range(0, q.shape[2], chunk):
        part = slice(start, start + chunk)
        unit, deviation = standardised(k[:, :, part] @ memory, 1e-6)
        error = gain * (gain * unit + bias - (v - k)[:, :, part])
        deltas = 2 * theta[:, :, part] * backward(error, unit, deviation)
        scan = momentum_scan(
            torch.log1p(-alpha[:, :, part, 0]),
            eta[:, :, part, 0].log(),
            torch.ones_like(alpha[:, :, part, 0]),
        )
        r = through_moving(q[:, :, part], memory, held, k[:, :, part], deltas, scan)
        outputs.append(r + gain * standardised(r, 1e-6)[0] + bias)
        taken = Steps(torch.zeros_like(deltas), (k[:, :, part],), (deltas,))
        after, momentum = moved(Weights(nothing, (memory,)), Weights(nothing, (held,)), taken, scan)
        memory, held = after.layers[0], momentum.layers[0]
    return torch.cat(outputs, 2).transpose(1, 2), memory


@pytest.mark.parametrize("path", golden("fla-titans"))
def test_agrees_with_flash_linear_attention(path):
    """With the true gradient; and with what is coded there, against that code's own numbers."""
    found = cases(path)
    for case, facts in facts_of(path).items():
        arrays = found[case]
        names = ("q", "k", "v", "w", "b", "theta", "alpha", "eta", "initial_state")
        a = {n: arrays[n].clone().requires_grad_() for n in names if n in arrays}
        out, state = linear_memory(a, facts["chunk"], through_norm)
        close(out, arrays["true_gradient/out"])
        close(state, arrays["true_gradient/final_state"])
        out, state = linear_memory(a, facts["chunk"], as_coded)
        close(out, arrays["out"])
        close(state, arrays["final_state"])
        loss = (out * arrays["loss_weight"]).sum()
        loss = loss + (state * arrays["loss_weight_final_state"]).sum()
        close_gradients(loss, a, arrays)


# --- the definition ---------------------------------------------------------------------------


def one_at_a_time(memory, q, k, v, x, strict):
    """Reads token by token, every step by autograd at the weights of its mini-batch's start."""

    def mem(weights, z):
        gain, *layers = weights
        a = z
        for number, layer in enumerate(layers):
            a = torch.einsum("bhi,bhio->bho", a if number == 0 else F.gelu(a), layer)
        return z + (1 + gain) * F.layer_norm(a, a.shape[-1:])

    lanes, length, _, width = q.shape
    learned = (memory.gain, *memory.layers)
    current = [torch.zeros(lanes, *z.shape, dtype=z.dtype) for z in learned]
    held, base, reads = current, current, []

    def weights(away):
        return [z + d for z, d in zip(learned, away, strict=True)]

    for t in range(length):
        if t % memory.minibatch == 0:
            base = current
        if strict:
            reads.append(mem(weights(current), q[:, t]))
        rate = memory.step / memory.minibatch * memory.rate(x[:, t])
        share, keep = torch.zeros_like(rate), torch.ones_like(rate)
        if memory.momentum is not None:
            share = F.linear(x[:, t], memory.momentum.weight, memory.momentum.bias).sigmoid()
        if memory.forgetting is not None:
            keep = memory.forgetting(x[:, t]).exp()
        base = [z if z.requires_grad else z.requires_grad_() for z in base]
        loss = (mem(weights(base), k[:, t]) - v[:, t]).square().sum() / 2
        gradients = torch.autograd.grad(loss, base, create_graph=True)
        squares = sum(g.square().flatten(2).sum(-1) for g in gradients)
        rate = rate * (1 - share) / (1 + squares / width).sqrt()

        def per_head(value, like):
            return value.view(*value.shape, *[1] * (like.dim() - 2))

        held = [
            per_head(share, g) * s - per_head(rate, g) * g
            for s, g in zip(held, gradients, strict=True)
        ]
        current = [per_head(keep, s) * z + s for z, s in zip(current, held, strict=True)]
        if not strict:
            reads.append(mem(weights(current), q[:, t]))
    return torch.stack(reads, 1), current, held


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"minibatch": 4},
        {"minibatch": 3, "depth": 1, "momentum": "off"},
        {"minibatch": 16, "depth": 3, "expansion": 2, "forget": "off", "rate": 4.0},
    ],
)
def test_equals_a_loop_over_tokens_with_gradients_by_autograd(options, strict):
    """Reads, the state, and the gradients through all of it."""
    torch.manual_seed(0)
    memory = TitansMemory(5, TitansOptions(heads=2, width=3, **options)).double()
    with torch.no_grad():
        for value in memory.parameters():
            value += 0.5 * torch.randn_like(value)
    q, k, v = (torch.randn(2, 11, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    x = torch.randn(2, 11, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 11, dtype=torch.bool)
    reads, state = memory(q, k, v, x, mask, memory.fresh(2), strict)
    expected, current, held = one_at_a_time(memory, q, k, v, x, strict)
    close(reads, expected, 1e-10)
    for number, (value, momentum) in enumerate(zip(current, held, strict=True)):
        close(state[f"memory.{number}"], value, 1e-10)
        if "momentum" not in options:
            close(state[f"momentum.{number}"], momentum, 1e-10)
    inputs = [q, k, v, x, *memory.parameters()]
    weights = torch.randn_like(reads)
    found, wanted = (
        torch.autograd.grad((value * weights).sum(), inputs) for value in (reads, expected)
    )
    for one, other in zip(found, wanted, strict=True):
        close(one, other, 1e-8 * max(1.0, float(other.abs().max())))


def test_forgetting_everything_at_once_is_exact():
    """Factors of 0 and near it, where quotients of products would be 0 / 0."""
    keep = torch.tensor([0.5, 0.0, 1e-30, 0.9, 0.0, 1.0], dtype=torch.float64)
    share = torch.tensor([0.3, 1e-40, 0.0, 0.8, 0.5, 0.0], dtype=torch.float64)
    log_keep, log_share = keep.log(), share.log()
    scan = momentum_scan(log_keep, log_share, torch.ones(6, dtype=torch.float64))
    steps_taken = torch.randn(6, dtype=torch.float64)
    memory, held = 2.0, 3.0
    for t in range(6):
        held = float(share[t]) * held - float(steps_taken[t])
        memory = float(keep[t]) * memory + held
        found = scan.left[t] * 2.0 + scan.pushed[t] * 3.0 - scan.coupling[t] @ steps_taken
        assert float(found) == pytest.approx(memory, abs=1e-12)
    assert float(scan.surviving * 3.0 - scan.recent @ steps_taken) == pytest.approx(held, abs=1e-12)


def gradient_of_the_past(memory, tokens):
    """Norm of the gradient of 16 reads at a document's end at all values that were written."""
    generator = torch.Generator().manual_seed(0)
    heads, width = memory.heads, memory.width

    def random(*shape):
        return torch.randn(1, tokens, *shape, generator=generator)

    q, k = (F.normalize(random(heads, width), dim=-1) for _ in range(2))
    v, x = random(heads, width).requires_grad_(), random(5)
    mask = torch.ones(1, tokens, dtype=torch.bool)
    reads, _ = memory(q, k, v, x, mask, memory.fresh(1), True)
    last = (reads * random(heads, width))[:, -16:].sum()
    return float(torch.autograd.grad(last, v)[0].norm())


@pytest.mark.parametrize("rate", [1.0, 2.0])
def test_training_through_a_long_document_does_not_explode(rate):
    """Where weights faded to 0, steps behind LN grew until each enlarged what came before it."""
    torch.manual_seed(0)
    memory = TitansMemory(5, TitansOptions(heads=2, width=16, rate=rate))
    torch.nn.init.constant_(memory.forgetting.log_rates, -math.log(64))
    torch.nn.init.constant_(memory.rate.bias, 8.0)  # the largest steps that there are
    shorter, longer = (gradient_of_the_past(memory, tokens) for tokens in (256, 1024))
    assert longer < 2 * shorter
    assert longer < 20


@torch.no_grad()
def test_what_is_forgotten_fades_to_the_learned_weights():
    torch.manual_seed(0)
    memory = TitansMemory(5, TitansOptions(heads=2, width=16))
    torch.nn.init.constant_(memory.forgetting.log_rates, 0.0)  # a half-life of one token
    keys = F.normalize(torch.randn(2, 1, 64, 2, 16), dim=-1)
    x, mask = torch.zeros(1, 64, 5), torch.ones(1, 64, dtype=torch.bool)
    values = torch.randn(1, 64, 2, 16)
    _, written = memory(*keys, values, x, mask, memory.fresh(1), True)
    memory.step = 0.0
    _, faded = memory(*keys, values, x, mask, written, True)
    close(memory.frozen(keys[0], faded), memory.frozen(keys[0], memory.fresh(1)), 1e-3)


def read_repetition(memory, tokens):
    """The last read and value, and the largest entry of the state, when all keys are the same."""
    state, piece = memory.fresh(1), 500
    k = F.normalize(torch.ones(1, piece, 2, 16), dim=-1)
    v = torch.linspace(-2, 2, 16).expand(1, piece, 2, 16)
    x = torch.zeros(1, piece, 5)
    for _ in range(tokens // piece):
        mask = torch.ones(1, piece, dtype=torch.bool)
        reads, state = memory(k, k, v, x, mask, state, True)
    largest = torch.stack([value.abs().max().float() for value in state.values()]).max()
    return reads[0, -1], v[0, -1], float(largest)  # NaN where the state is


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"forget": "off", "momentum": "off"}])
def test_repetition_is_learned_and_does_not_diverge(options):
    torch.manual_seed(0)
    memory = TitansMemory(5, TitansOptions(heads=2, width=16, **options))
    read, value, largest = read_repetition(memory, 1000)
    assert (read - value).square().mean() < 0.2 * value.square().mean()
    assert largest < 10
    memory = TitansMemory(5, TitansOptions(heads=2, width=16, rate=8.0, **options))
    assert read_repetition(memory, 1000)[2] < 50
    memory.longest = math.inf
    assert not read_repetition(memory, 1000)[2] < 50
