"""The heads that are a memory in the shared block, small ones of each to try, and trained bodies.

Tests give them small or random weights, whether some come with the bench or not. A new head adds
its name here, and is held to what all of them keep.
"""

from __future__ import annotations

from typing import Any

import torch

from tta_bench.contract.registry import load
from tta_bench.contract.spec import build

FAST_HEADS: dict[str, list[dict[str, Any]]] = {
    "linear-attention": [{"forget": "learned"}, {"forget": "off"}],
    "delta": [{}],
    "gated-delta": [{}],
    "mesa": [{"forget": "learned"}, {"forget": "off"}],
    "ttt-linear": [{"minibatch": 4, "forget": "off"}],
    "ttt-mlp": [{"minibatch": 4, "forget": "learned"}],
    "titans": [
        {"minibatch": 4},
        {"minibatch": 3, "depth": 1, "momentum": "off", "forget": "off"},
    ],
    "lattice": [
        {"minibatch": 4},
        {"minibatch": 3, "objective": "encoding", "forget": "learned"},
    ],
}
"""Options worth trying, by name; the first are those of tests that try one."""

BODIES: dict[str, dict[str, Any]] = {
    "in-place-ttt": {"chunk": 16, "every": 3},
    "generative-adapter": {"rank": 16, "directions": 4},
    "compressed-memory": {"slots": 4, "chunks": 3},
    "ttt-e2e": {"width": 32, "blocks": 2},
}
"""What acts inside the body instead, with options for a short training on the built-in model."""

LEARNED = (*FAST_HEADS, *BODIES, "camels", "knn-adapter")
"""All trained methods but `fwl`."""

SUMS = {"linear-attention", "mesa"}
"""Whose state is a sum over the document, and may grow as it does."""

SMALL = {"heads": 2, "width": 4}
VARIANTS = [(name, options) for name, tried in FAST_HEADS.items() for options in tried]
IDS = ["-".join([name, *map(str, options.values())]) for name, options in VARIANTS]


def small_block(model, name: str, seed: int = 0, **options: Any):
    """A block in float64 with noise on every parameter, so that all of them matter."""
    torch.manual_seed(seed)
    cls = load(name)
    block = cls.slow_weights(model, build(cls.Slow, SMALL | options, name)).double()
    with torch.no_grad():
        for value in block.parameters():
            value.add_(torch.randn_like(value) * (1.0 if value.dim() < 2 else 0.1))
    return block
