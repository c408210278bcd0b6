"""Ridge regression at every position: the authors' numbers, and one least-squares fit a token."""

import pytest
import torch
from golden import cases, checked, golden, leaves
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tta_bench_methods.head.regression import chunk
from tta_bench_methods.head.regression.chunk import own_solves, shared_solves


@pytest.mark.parametrize("path", golden("mesa"))
def test_solves_of_a_chunk_agree_with_the_authors(path, monkeypatch):
    monkeypatch.setattr(chunk, "SUMS", 5)
    for arrays in cases(path).values():
        names = ("q", "k", "v", "beta", "g", "lamb", "h_kk_init", "h_kv_init")
        a = leaves(arrays, names)
        q, k, v, beta, g = (a[name].transpose(1, 2) for name in ("q", "k", "v", "beta", "g"))
        second, cross = (torch.zeros_like(arrays[name]) for name in ("h_kk", "h_kv"))
        if "h_kk_init" in a:  # theirs need not be symmetric, ours is: so are gradients with it
            second, cross = (a["h_kk_init"] + a["h_kk_init"].mT) / 2, a["h_kv_init"]
            gradient = arrays["grad/h_kk_init"]
            arrays["grad/h_kk_init"] = (gradient + gradient.mT) / 2
        prior = torch.zeros_like(arrays["h_kv"])
        out, second, cross = own_solves(q, k, v, beta, g, a["lamb"][None], prior, second, cross)
        checked(arrays, names, {"out": out.transpose(1, 2), "h_kk": second, "h_kv": cross})


def fitted(q, k, v, rates, decays, ridge, prior, second, cross, strict):
    """Every position by itself: the weighted problem on all pairs that it may read."""
    reads, held = [], (second, cross)
    for t in range(q.shape[-2] + 1):
        stop = t if strict else t + 1
        ages = [decays[..., s + 1 : stop].sum(-1) for s in range(stop)]
        first = decays[..., :stop].sum(-1)[..., None, None].exp()
        weights = [rates[..., s] * age.exp() for s, age in enumerate(ages[: q.shape[-2]])]
        if strict or t < q.shape[-2]:
            H, R = first * second, first * cross
            for s, weight in enumerate(weights):
                pair = weight[..., None, None] * k[..., s, :, None]
                H, R = H + pair * k[..., s, None, :], R + pair * v[..., s, None, :]
            held = H, R
        if t < q.shape[-2]:
            L = torch.diag_embed(ridge)
            W = torch.linalg.solve(held[0] + L, held[1] + L @ prior)
            reads.append((q[..., t, None, :] @ W)[..., 0, :])
    return torch.stack(reads, -2), *held


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("forgets", [True, False])
@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 9), block=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_chunk_is_a_fit_at_every_token_and_so_are_its_gradients(
    forgets, strict, length, block, seed
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = (F.normalize(normal(2, length, 4), dim=-1) for _ in range(2))
    old = normal(2, 3, 4)
    decays = -normal(2, length).exp() * forgets
    before = [normal(4).exp(), normal(4, 3), old.mT @ old, normal(2, 4, 3)]
    given_values = [q, k, normal(2, length, 3), normal(2, length).sigmoid(), decays, *before]
    inputs = [value.requires_grad_() for value in given_values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk, "BLOCK", block)
        patch.setattr(chunk, "SUMS", block)
        if forgets:
            found = own_solves(*inputs, strict=strict)
        else:
            found = shared_solves(*inputs[:4], *inputs[5:], strict=strict)
    expected = fitted(*inputs, strict)
    weights = [normal(*value.shape) for value in found]
    gradients = []
    for results in (found, expected):
        loss = sum((value * weight).sum() for value, weight in zip(results, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, inputs, allow_unused=True))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    for number, (one, other) in enumerate(zip(*gradients, strict=True)):
        if number == 4 and not forgets:
            continue  # given to one of them alone
        if number == 7:  # H is symmetric: so is what its gradient says
            one, other = one + one.mT, other + other.mT
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
