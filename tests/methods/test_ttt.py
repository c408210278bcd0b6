"""Test-time training layers: the authors' numbers, the definition, and the stream."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from golden import golden
from torch.nn import functional as F
from ttt_layers import by_name, fla_layer, language_layer, video_block, video_layer

from tta_bench_methods.head.ttt.linear import Linear
from tta_bench_methods.head.ttt.memory import TestTimeTraining, TestTimeTrainingOptions
from tta_bench_methods.head.ttt.method import MLPOptions
from tta_bench_methods.head.ttt.mlp import MLP

CUTS = {"whole": (), "pieces": (1, 5, 6, 8, 11)}


def read_golden(path):
    """The arrays of a file as tensors by name, and what it says of its cases."""
    with np.load(path, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["meta_json"]))
        tensors = {
            name: torch.from_numpy(value)
            for name, value in arrays.items()
            if value.dtype == np.float64
        }
    return tensors, about["cases"]


def below(prefix, arrays):
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def same_gradients(loss, inputs, arrays):
    """The gradients of the loss are those of the file, to 1e-7 of their largest entries."""
    expected = [arrays[f"grad/{name}"] for name in inputs]
    found = torch.autograd.grad(loss, list(inputs.values()))
    for value, gradient in zip(expected, found, strict=True):
        close(gradient, value, 1e-7 * float(value.abs().max()))


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(
    ("path", "model"),
    [
        pytest.param(*found.values, model, id=f"{system}-{found.id}", marks=found.marks)
        for system, model in (("ttt-linear", Linear()), ("ttt-mlp", MLP()))
        for found in golden(system)
    ],
)
def test_agrees_with_the_authors_layer(path, model, cuts):
    arrays, cases = read_golden(path)
    for name, case in cases.items():
        p = below(f"{case['params_from']}/param/", arrays)
        a = below(f"{name}/", arrays)
        tables = tuple(arrays[f"{case['params_from']}/rope_{part}"] for part in ("cos", "sin"))
        inputs = {part: value.requires_grad_() for part, value in p.items()} | {
            "x": a["x"].requires_grad_()
        }
        found = language_layer(model, p, a["x"], tables, case, cuts)
        if "out_cached" in a:  # mini-batches that stay open from call to call
            close(found["out"], a["out_cached"])
            for part, value in by_name(found["kernels"]).items():
                close(value, a[f"cache/{part}_states"])
            for part, value in by_name(found["sums"]).items():
                close(value, a[f"cache/{part}_grad"])
            continue
        close(found["out"], a["out"])
        if "before_post_norm" in a:
            close(found["before_post_norm"], a["before_post_norm"].flatten(2))
        for part, value in by_name(found["now"]).items():
            close(value, a[f"final/{part}"])
        same_gradients((found["out"] * a["loss_weight"]).sum(), inputs, a)


@pytest.mark.parametrize("path", golden("ttt-video"))
def test_agrees_with_the_authors_layer_for_video(path):
    arrays, cases = read_golden(path)
    for name in ("text_layer", "video_layer", "video_block"):
        source = "text_layer" if name == "text_layer" else "video"
        case = cases[source]
        p, x = below(f"{source}/param/", arrays), arrays[f"{source}/x"]
        tables = (
            None if name == "text_layer" else (arrays["video/rope_cos"], arrays["video/rope_sin"])
        )
        gates = below(f"{name}/param/", arrays) if name == "video_block" else {}
        inputs = {part: value.requires_grad_() for part, value in (p | gates | {"x": x}).items()}
        if gates:
            out = video_block(MLP(), p, gates, x, case, tables)
        else:
            found = video_layer(MLP(), p, x, case, tables)
            out = found["out"]
            for part, value in by_name(found["now"]).items():
                close(value, arrays[f"{name}/final/{part}"])
        close(out, arrays[f"{name}/out"])
        loss = (out * arrays[f"{source}/loss_weight"]).sum()
        same_gradients(loss, inputs, below(f"{name}/", arrays))


@pytest.mark.parametrize("path", golden("ttt-video"))
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_made_causal_it_ends_each_mini_batch_as_the_layer_for_video(path, cuts):
    arrays, cases = read_golden(path)
    case, x = cases["text_layer"], arrays["text_layer/x"]
    p = below("text_layer/param/", arrays)
    found = video_layer(MLP(), p, x, case, causal=True, cuts=cuts)
    for part, value in by_name(found["now"]).items():
        close(value, arrays[f"text_layer/final/{part}"])
    last = slice(case["mb"] - 1, None, case["mb"])
    close(found["out"][:, last], arrays["text_layer/out"][:, last])
    assert (found["out"] - arrays["text_layer/out"]).abs().max() > 1e-3
    x[:, -1] += 1.0
    again = video_layer(MLP(), p, x, case, causal=True, cuts=cuts)
    assert torch.equal(again["out"][:, :-1], found["out"][:, :-1])


@pytest.mark.parametrize("path", golden("fla-ttt"))
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_agrees_with_the_layer_of_flash_linear_attention(path, cuts):
    arrays, cases = read_golden(path)
    for name, case in cases.items():
        a = below(f"{name}/", arrays)
        inputs = {part: a[part].requires_grad_() for part in below("grad/", a)}
        found = fla_layer(Linear(), a, case, cuts)
        loss = (found["out"] * a["loss_weight"]).sum()
        close(found["out"], a["out"])
        for part in ("final_state", "final_bias"):
            close(found[part], a[part])
            loss = loss + (found[part] * a[f"loss_weight_{part}"]).sum()
        same_gradients(loss, inputs, a)


# --- the definition -------------------------------------------------------------------------

SIZES = {"heads": 2, "width": 6, "minibatch": 4}
HIDDEN = 5
MEMORIES = {
    f"{name}-{forget}": (slow, model, forget)
    for name, slow, model in (
        ("linear", TestTimeTrainingOptions, Linear()),
        ("mlp", MLPOptions, MLP()),
    )
    for forget in ("off", "learned")
}
every_memory = pytest.mark.parametrize(("slow", "model", "forget"), MEMORIES.values(), ids=MEMORIES)
strictly = pytest.mark.parametrize("strict", [True, False], ids=["strict", "inclusive"])


def noisy_memory(slow, model, forget):
    """A memory in float64 of which every parameter matters."""
    torch.manual_seed(1)
    memory = TestTimeTraining(HIDDEN, slow(**SIZES, forget=forget), model).double()
    with torch.no_grad():
        for value in memory.parameters():
            value += 0.3 * torch.randn_like(value)
        if memory.log_half_lives is not None:
            memory.log_half_lives.copy_(torch.tensor([3.0, 9.0]).log())
    return memory


def tokens(length, lanes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = lanes, length, SIZES["heads"], SIZES["width"]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    x = torch.randn(lanes, length, HIDDEN, generator=generator, dtype=torch.float64)
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, x


def one_position_at_a_time(memory, q, k, v, x, strict):
    """Reads by their definition: weights of their own for every position, gradients by autograd.

    Also what is left at the end: weights at the start of the open mini-batch, and its sums.
    """
    lanes, length, _, width = q.shape
    q, k = q * width**0.5, k * width**0.5
    rates = memory.most * (x @ memory.rate.weight.mT + memory.rate.bias).sigmoid()

    def named(kernels):
        return [(kernel[..., :-1, :], kernel[..., -1:, :]) for kernel in kernels]

    def f(z, kernels):  # [B, H, w]
        layers = named(kernels)
        z = z[:, :, None]
        for number, (weight, bias) in enumerate(layers):
            z = z if number == 0 else F.gelu(z, approximate="tanh")
            z = z @ weight + bias
        return F.layer_norm(z[:, :, 0], [width], eps=1e-6) * memory.gain + memory.bias

    initial = [kernel.expand(lanes, -1, -1, -1) for kernel in memory.initial]
    start, sums, reads = initial, [0.0 * kernel for kernel in initial], []
    for t in range(length):
        i = t % memory.size
        loss = (k[:, t] + f(k[:, t], start) - v[:, t]).square().sum() / 2
        gradients = torch.autograd.grad(loss, start, create_graph=True)
        steps = [g * rates[:, t, :, None, None] for g in gradients]
        after = [held + step for held, step in zip(sums, steps, strict=True)]
        tau = memory.log_taus[i].exp()
        known = sums if strict else after
        now = [kernel - tau * held for kernel, held in zip(start, known, strict=True)]
        reads.append(q[:, t] + f(q[:, t], now))
        sums = after
        if i == memory.size - 1:
            start = [kernel - tau * held for kernel, held in zip(start, sums, strict=True)]
            sums = [0.0 * held for held in sums]
            if memory.log_half_lives is not None:
                kept = 2 ** (-memory.size / memory.log_half_lives.exp())[:, None, None]
                start = [
                    kept * kernel + (1 - kept) * begin
                    for kernel, begin in zip(start, initial, strict=True)
                ]
    return torch.stack(reads, dim=1), start, sums


@every_memory
@strictly
@pytest.mark.parametrize("cuts", [(), (3, 4, 9)], ids=["whole", "pieces"])
def test_equals_steps_on_every_position_by_autograd(slow, model, forget, strict, cuts):
    """Reads, states and outer gradients, which go through the inner ones."""
    memory = noisy_memory(slow, model, forget)
    parts = [part.requires_grad_() for part in tokens(10)]
    inputs = [*parts, *memory.parameters()]
    expected, start, sums = one_position_at_a_time(memory, *parts, strict)
    state, pieces = memory.fresh(2), []
    for first, stop in pairwise([0, *cuts, 10]):
        here = (part[:, first:stop] for part in parts)
        mask = torch.ones(2, stop - first, dtype=torch.bool)
        read, state = memory(*here, mask, state, strict)
        pieces.append(read)
    found = torch.cat(pieces, dim=1)
    # The constants of the authors' derivative of GELU are rounded.
    close(found, expected, 1e-9 if isinstance(model, Linear) else 1e-8)
    for number, (kernel, held) in enumerate(zip(start, sums, strict=True)):
        close(state[f"w{number}"], kernel, 1e-9)
        close(state[f"sum{number}"], held, 1e-9)
    assert (found - memory.frozen(parts[0], memory.fresh(2))).abs().max() > 0.1
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2)).double()
    slopes = [torch.autograd.grad((reads * weights).sum(), inputs) for reads in (found, expected)]
    for ours, wanted in zip(*slopes, strict=True):
        assert wanted.abs().max() > 0
        close(ours, wanted, 1e-7 * float(wanted.abs().max()))
