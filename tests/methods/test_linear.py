"""Matrices that learn a position at a time: the authors' numbers, and a loop over tokens."""

import numpy as np
import pytest
import torch
from golden import cases, checked, golden, leaves
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tta_bench_methods.head.linear import rule
from tta_bench_methods.head.linear.rule import linear_rule, rule_flops, rule_invisible_flops


@pytest.fixture(params=[64, 5], ids=["one block", "blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(rule, "BLOCK", request.param)


def in_chunks(sizes, step, state, *parts):
    """Reads pieces one after another, the state of one going into the next."""
    outputs, start = [], 0
    for size in sizes:
        out, state = step(*(part[..., start : start + size, :] for part in parts), state)
        outputs.append(out)
        start += size
    return torch.cat(outputs, dim=-2), state


@pytest.mark.parametrize("path", golden("delta"))
@pytest.mark.parametrize("pieces", [1, 3])
def test_delta_rule_agrees_with_the_authors(path, pieces, blocks):
    for arrays in cases(path).values():
        names = ("q", "k", "v", "beta", "initial_state")
        a = leaves(arrays, names)
        state = a.get("initial_state")
        if state is None:
            state = torch.zeros_like(arrays["final_state"])
        by_channel = a["beta"].dim() == 4  # each channel of the value has a rate of its own
        q, k, v, beta = a["q"], a["k"], a["v"], a["beta"][..., None]
        if by_channel:  # as many matrices of one column
            q, k = (part[:, :, None] for part in (q, k))
            v, beta = v.mT[..., None], a["beta"].mT[..., None]
            state = state.mT[..., None]
        sizes = [len(part) for part in np.array_split(range(q.shape[-2]), pieces)]

        def step(q, k, v, beta, state):
            return linear_rule(q, k, v, beta[..., 0], torch.zeros_like(beta[..., 0]), state)

        out, after = in_chunks(sizes, step, state, q, k, v, beta)
        if by_channel:
            out, after = out[..., 0].mT, after[..., 0].mT
        scale = q.shape[-1] ** -0.5
        checked(arrays, names, {"out": out * scale, "final_state": after})


@pytest.mark.parametrize("path", golden("gated-delta"))
@pytest.mark.parametrize("pieces", [1, 3])
def test_gated_delta_rule_agrees_with_the_authors(path, pieces, blocks):
    for case, arrays in cases(path).items():
        names = ("q", "k", "v", "beta", "g", "initial_state")
        a = leaves(arrays, names)
        state = a.get("initial_state")
        if state is None:
            state = torch.zeros_like(arrays["final_state"])
        q, k, v = (a[name].transpose(1, 2) for name in ("q", "k", "v"))  # to [B, H, L, D]
        beta, g = (a[name].transpose(1, 2)[..., None] for name in ("beta", "g"))
        sizes = [len(part) for part in np.array_split(range(q.shape[-2]), pieces)]

        def step(q, k, v, beta, g, state):
            return linear_rule(q, k, v, beta[..., 0], g[..., 0], state)

        out, after = in_chunks(sizes, step, state, q, k, v, beta, g)
        scale = 1.0 if "scale1" in case else q.shape[-1] ** -0.5
        checked(arrays, names, {"out": scale * out.transpose(1, 2), "final_state": after})


def looped(q, k, v, rates, decays, state, strict, corrects):
    """The recursion as it is written, a token at a time."""
    reads = []
    for t in range(q.shape[-2]):
        faded = decays[..., t, None, None].exp() * state
        lacked = v[..., t, :]
        if corrects:
            lacked = lacked - (k[..., t, None, :] @ faded)[..., 0, :]
        written = faded + k[..., t, :, None] * (rates[..., t, None] * lacked)[..., None, :]
        reads.append((q[..., t, None, :] @ (state if strict else written))[..., 0, :])
        state = written
    return torch.stack(reads, -2), state


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("corrects", [True, False])
@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 12), block=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_chunk_is_the_loop_and_so_are_its_gradients(corrects, strict, length, block, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = (F.normalize(normal(2, length, 4), dim=-1) for _ in range(2))
    rates, decays = normal(2, length).sigmoid(), -normal(2, length).exp()
    given_values = [q, k, normal(2, length, 3), rates, decays, normal(2, 4, 3)]
    inputs = [value.requires_grad_() for value in given_values]
    weights = normal(2, length, 3), normal(2, 4, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule, "BLOCK", block)
        found = linear_rule(*inputs, strict=strict, corrects=corrects)
    expected = looped(*inputs, strict, corrects)
    gradients = []
    for results in (found, expected):
        loss = sum((value * weight).sum() for value, weight in zip(results, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, inputs, allow_unused=True))
    for one, other in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        if one is None or other is None:
            assert one is other or not (one if other is None else other).any()
            continue
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_gate_that_forgets_everything_is_no_trouble():
    """Logarithms that are far apart: what is gone is 0, and nothing is divided by it."""
    q = k = F.normalize(torch.randn(1, 70, 4), dim=-1)
    v, decays = torch.randn(1, 70, 4), torch.full((1, 70), -200.0)
    inputs = [value.requires_grad_() for value in (v, decays, torch.randn(1, 4, 4))]
    for strict in (True, False):
        reads, state = linear_rule(q, k, v, torch.ones(1, 70), decays, inputs[2], strict=strict)
        (reads.sum() + state.sum()).backward()
        assert torch.isfinite(reads).all()
    assert all(torch.isfinite(value.grad).all() for value in inputs)
    torch.testing.assert_close(reads, v * (q * k).sum(-1, keepdim=True))


def test_inside_a_block_pairs_cost_more_with_length_and_blocks_do_not():
    each = [rule_flops(length, 8, 8) / length for length in (1, 64, 640)]
    assert each[0] < each[1] == each[2]
    assert 0 < rule_invisible_flops(64, 8, 8) < rule_flops(64, 8, 8)
