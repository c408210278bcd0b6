"""Lattice: the derived numbers, the definition by autograd, and the stream."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from golden import golden
from torch.nn import functional as F

from tta_bench_methods.head.lattice.memory import LatticeMemory, LatticeOptions
from tta_bench_methods.head.lattice.slots import read_moving, steps

OBJECTIVES = {"dec": "decoding", "sim": "similarity", "enc": "encoding"}


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def in_pieces(slots, objective, arrays, gates, size, normalises=False):
    """Slots [n, w] after each piece, with steps taken at its start, and all reads."""
    states, reads = [], []
    for start in range(0, len(arrays["K"]), size):
        part = slice(start, start + size)
        left = gates[part].cumprod(0)
        kept = (left[:, None] / left).tril()
        taken = steps(slots, arrays["K"][part], arrays["V"][part], arrays["eta"][part], objective)
        found, slots = read_moving(slots, taken, kept, left, arrays["Q"][part], strict=False)
        if normalises:
            slots = F.normalize(slots, dim=-1)
        states.append(slots)
        reads.append(found)
    return torch.stack(states), torch.cat(reads)


@pytest.mark.parametrize("path", golden("lattice"))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_agrees_with_the_derived_numbers(path, objective):
    """A step a position; the reference has slots in columns."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(value) for name, value in file.items()}
    begin, ones = arrays["S0"].mT, torch.ones_like(arrays["beta"])
    modes = {
        "free": (begin, ones, False),
        "renorm": (F.normalize(begin, dim=-1), ones, True),
        "gated": (begin, arrays["beta"], False),
    }
    for mode, (slots, gates, normalises) in modes.items():
        states, reads = in_pieces(
            slots, OBJECTIVES[objective], arrays, gates, 1, normalises=normalises
        )
        close(states.mT, arrays[f"{objective}.{mode}.S"])
        close(reads, arrays[f"{objective}.{mode}.y"])
    size = int(arrays["meta"][3])
    states, _ = in_pieces(begin, OBJECTIVES[objective], arrays, ones, size)
    if f"{objective}.chunk{size}.S" in arrays:
        expected = arrays[f"{objective}.chunk{size}.S"]
        close(states[: len(expected)].mT, expected)


def one_at_a_time(memory, q, k, v, x, strict):
    """Reads token by token, every step by autograd at the slots of its mini-batch's start."""
    scale = v.shape[-1] ** 0.5

    def losses(slots, key, value):
        directions = slots / slots.norm(dim=-1, keepdim=True)
        recalled = torch.einsum("bhn,bhnw->bhw", key, directions)
        if memory.objective == "similarity":
            return -(recalled * value).sum()
        if memory.objective == "encoding":
            coded = torch.einsum("bhnw,bhw->bhn", directions, value)
            return (coded - key).square().sum() / 2
        return (recalled - value).square().sum() / 2

    def read(slots, query):
        return scale * torch.einsum("bhn,bhnw->bhw", query, F.normalize(slots, dim=-1))

    slots = memory.fresh(len(q))["slots"]
    base, reads = slots, []
    for t in range(q.shape[1]):
        if strict:
            reads.append(read(slots, q[:, t]))
        (gradient,) = torch.autograd.grad(
            losses(base, k[:, t], v[:, t] / scale), base, create_graph=True
        )
        if memory.forgetting is not None:
            slots = memory.forgetting(x[:, t]).exp()[..., None, None] * slots
        slots = slots - memory.rate(x[:, t])[..., None, None] * gradient
        if not strict:
            reads.append(read(slots, q[:, t]))
        if t % memory.minibatch == memory.minibatch - 1:
            slots = base = F.normalize(slots, dim=-1)
    return torch.stack(reads, 1), slots


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"minibatch": 1},
        {"minibatch": 4},
        {"minibatch": 5, "objective": "encoding", "forget": "learned"},
        {"minibatch": 16, "objective": "similarity", "forget": "learned"},
    ],
)
def test_equals_a_loop_over_tokens_with_gradients_by_autograd(options, strict):
    """Reads, the slots, and the gradients through all of it; in one piece and in two."""
    torch.manual_seed(0)
    memory = LatticeMemory(5, LatticeOptions(heads=2, width=3, **options)).double()
    with torch.no_grad():
        for value in memory.parameters():
            value += 0.5 * torch.randn_like(value)
    q, k, v = (torch.randn(2, 11, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    x = torch.randn(2, 11, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 11, dtype=torch.bool)
    expected, slots = one_at_a_time(memory, q, k, v, x, strict)
    inputs = [q, k, v, x, *memory.parameters()]
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for cuts in ([0, 11], [0, 6, 11]):
        state, pieces = memory.fresh(2), []
        for start, stop in pairwise(cuts):
            part = slice(start, stop)
            parts = (value[:, part] for value in (q, k, v, x, mask))
            found, state = memory(*parts, state, strict)
            pieces.append(found)
        reads = torch.cat(pieces, 1)
        close(reads, expected, 1e-10)
        close(state["slots"], slots, 1e-10)
        found = torch.autograd.grad((reads * weights).sum(), inputs)
        for one, other in zip(found, wanted, strict=True):
            close(one, other, 1e-8 * max(1.0, float(other.abs().max())))


@torch.no_grad()
def test_steps_are_orthogonal_to_the_slots():
    torch.manual_seed(0)
    slots, keys, values = (torch.randn(4, 6, dtype=torch.float64) for _ in range(3))
    for objective in OBJECTIVES.values():
        taken = steps(slots, keys[:, :4], values, torch.full((4,), 0.3).double(), objective)
        ones = torch.ones(4, 4).double().tril()
        _, after = read_moving(slots, taken, ones, ones[:, 0], keys[:, :4], strict=True)
        close(((after - slots) * slots).sum(-1), torch.zeros(4).double(), 1e-14)
        assert (after - slots).norm(dim=-1).min() > 0.1
        assert (after.norm(dim=-1) > slots.norm(dim=-1)).all()
