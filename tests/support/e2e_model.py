"""The authors' model of TTT-E2E, read chunk by chunk from its formulas, in float64.

Its prime MLPs and their steps are those of the bench. Weights are stored [in, out].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from tta_bench_methods.parameter.ttt_e2e.descent import descended
from tta_bench_methods.parameter.ttt_e2e.prime import prime_mlp

THETA = 500_000.0
BLOCKS = "language_model.model.h.blocks."
PRIME = "language_model.model.h.prime_storage."
FAST = {"gate": "w1", "up": "w3", "down": "w2"}


class Read(NamedTuple):
    """What the reading of a sequence gave."""

    prefix: torch.Tensor  # [T, d], of the blocks below the first prime MLP
    nll: torch.Tensor  # [T]
    losses: torch.Tensor  # [chunks]
    weights: list  # of the prime MLPs before each chunk and at the end: {"0.gate": [1, m, d]}


class EndToEndModel:
    """The blocks, with parameters by the names of the fixture.

    Args:
        parameters: float64 tensors.
        meta: [vocabulary, width, MLP width, layers, heads, chunk, window, T, suffix].
    """

    def __init__(self, parameters, meta):
        self.p = parameters
        _, self.width, _, self.layers, self.heads, self.chunk, self.window, _, self.suffix = meta

    def read(self, ids, counted, rate):
        """Reads ids [T + 1], stepping at `rate` after each chunk; losses are of counted [T]."""
        first, total = self.layers - self.suffix, len(ids) - 1
        x = self.p["language_model.model.wte.weight"][ids[:-1]]
        positions = torch.arange(total)
        for layer in range(first):
            x, _ = self._block(x, layer, positions, None, None)
        fast = {
            f"{number}.{name}": self.p[f"{PRIME}feed_forward_prime.{theirs}.weight"][number].mT[
                None
            ]
            for number in range(self.suffix)
            for name, theirs in FAST.items()
        }
        held, weights, nll, losses = [None] * self.suffix, [fast], [], []
        for start in range(0, total, self.chunk):
            part = slice(start, start + self.chunk)
            y = x[part]
            for number in range(self.suffix):
                own = {name: fast[f"{number}.{name}"][0] for name in FAST}
                y, held[number] = self._block(
                    y, first + number, positions[part], held[number], (number, own)
                )
            y = self._norm(y, "language_model.model.ln_f.weight")
            logits = y @ self.p["language_model.model.wte.weight"].mT
            nll.append(F.cross_entropy(logits, ids[1:][part], reduction="none"))
            losses.append((nll[-1] * counted[part]).sum() / counted[part].sum())
            fast = descended(fast, losses[-1][None], rate, through=True)
            weights.append(fast)
        return Read(x, torch.cat(nll), torch.stack(losses), weights)

    def _block(self, x, layer, positions, past, prime):
        """The block's output, and the keys and values up to here."""
        mixed, held = self._attention(self._of(x, "seq_norm", layer), layer, positions, past)
        x = x + self._of(mixed, "seq_post_norm", layer)
        if prime is not None:
            number, weights = prime
            before, after = (
                self.p[f"{PRIME}ffn_prime_{name}.weight"][number] for name in ("norm", "post_norm")
            )
            x = x + prime_mlp(x, weights, before, after)
        n = self._of(x, "ffn_norm", layer)
        w1, w2, w3 = (self.p[f"{BLOCKS}feed_forward.w{k}.weight"][layer] for k in (1, 2, 3))
        return x + self._of((F.silu(n @ w1) * (n @ w3)) @ w2, "ffn_post_norm", layer), held

    def _attention(self, x, layer, positions, past):
        q, k, v = (
            (x @ self.p[f"{BLOCKS}seq_modeling_block.w{name}.weight"][layer])
            .view(len(x), self.heads, -1)
            .transpose(0, 1)
            for name in "qkv"
        )
        q, k = (
            rotated(
                self._norm(value, f"{BLOCKS}seq_modeling_block.{name}_norm.weight", layer),
                positions,
            )
            for name, value in (("q", q), ("k", k))
        )
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        ago = positions[:, None] - torch.arange(k.shape[1])
        scores = (q @ k.mT) / q.shape[-1] ** 0.5
        scores = scores.masked_fill((ago < 0) | (ago >= self.window), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        return mixed @ self.p[f"{BLOCKS}seq_modeling_block.wo.weight"][layer], (k, v)

    def _of(self, x, name, layer):
        return self._norm(x, f"{BLOCKS}{name}.weight", layer)

    def _norm(self, x, name, layer=None):
        gain = self.p[name] if layer is None else self.p[name][layer]
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gain


def rotated(x, positions):
    """Each pair of neighbours (2 i, 2 i + 1) of x [heads, T, width] turned by its own frequency."""
    width = x.shape[-1]
    turns = THETA ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    angles = positions[:, None].to(x.dtype) * turns
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(turned, -1).flatten(-2)
