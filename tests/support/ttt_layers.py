"""The authors' layers around test-time training, as far as the golden numbers go through them.

What the product has no use for (rotations, convolutions, gates, norms of targets, the reverse
pass) is here; f and its steps are the product's.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench_methods.head.block.minibatch import grid_of
from tta_bench_methods.head.ttt.inner_loss import Norm
from tta_bench_methods.head.ttt.scan import Positions, Scan


def in_pieces(model, norm, positions, size, newest, kernels, cuts=(), sums=None):
    """Reads positions in pieces, the state of one going into the next: f(q), kernels, sums."""
    length = positions.queries.shape[1]
    index = torch.zeros(len(positions.queries), dtype=torch.int64)
    sums = tuple(torch.zeros_like(w) for w in kernels) if sums is None else sums
    outputs = []
    for start, stop in pairwise(sorted({0, length, *(c for c in cuts if c < length)})):
        piece = Positions(*(part[:, start:stop] for part in positions))
        mask = torch.ones(piece.queries.shape[:2], dtype=torch.bool)
        grid = grid_of(index, mask, size)
        read, kernels, sums = Scan(model)(norm, piece, grid, newest, kernels, sums)
        index = grid.next_index
        outputs.append(read)
    return torch.cat(outputs, dim=1), kernels, sums


def joined(weights: Tensor, biases: Tensor) -> Tensor:
    """A kernel whose last row is the bias."""
    return torch.cat([weights, biases], dim=-2)


def kernels_of(p: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(joined(p[f"W{i}"], p[f"b{i}"]) for i in (1, 2) if f"W{i}" in p)


def by_name(kernels: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The parts of kernels under the authors' names."""
    named = {}
    for number, kernel in enumerate(kernels, start=1):
        named[f"W{number}"], named[f"b{number}"] = kernel[..., :-1, :], kernel[..., -1:, :]
    return named


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved pairs turned; tables [T, d / 2] for x [B, T, H, d]."""
    cos, sin = cos[:, None], sin[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def language_layer(model, p, x, tables, case, cuts=()):
    """TTTLinear and TTTMLP of ttt-lm-pytorch: outputs, what stands before the norm, state."""
    size, heads = case["mb"], case["heads"]
    lanes, length, channels = x.shape
    width = channels // heads

    def split(z):
        return z.unflatten(-1, (heads, width))

    q, v = x @ p["q_proj.weight"].mT, x @ p["v_proj.weight"].mT
    if case["share_qk"]:
        q, k = (_convolved(q, p[f"conv_{n}.weight"], p[f"conv_{n}.bias"]) for n in "qk")
    else:
        k = x @ p["k_proj.weight"].mT
    index = torch.arange(length) % size
    q, k = (rotated(split(z), *(table[index] for table in tables)) for z in (q, k))
    rates = x @ p["learnable_ttt_lr_weight"][:, 0].mT + p["learnable_ttt_lr_bias"][:, 0]
    rates = case["base_lr"] / width * rates.sigmoid()
    taus = (1 / torch.arange(1, size + 1, dtype=x.dtype) + p["learnable_token_idx"]).clamp_min(0)
    taus = taus[index][:, None].expand(lanes, -1, heads)
    norm = Norm(p["ttt_norm_weight"][:, None], p["ttt_norm_bias"][:, None], 1e-6)
    positions = Positions(q, k, split(v) - k, rates, taus)
    begin = tuple(w.expand(lanes, -1, -1, -1) for w in kernels_of(p))
    read, kernels, sums = in_pieces(model, norm, positions, size, 0, begin, cuts)
    y = (q + normed(norm, read)).flatten(2)
    after = F.layer_norm(y, [channels], p["post_norm.weight"], p["post_norm.bias"], 1e-6)
    if case["use_gate"]:
        after = after * F.gelu(x @ p["g_proj.weight"].mT, approximate="tanh")
    out = after @ p["o_proj.weight"].mT
    # As the authors' final state has it: with what an open mini-batch has taught so far.
    last = taus[:, -1, :, None, None] * bool(length % size)
    now = tuple(w - last * held for w, held in zip(kernels, sums, strict=True))
    return {"out": out, "before_post_norm": y, "now": now, "kernels": kernels, "sums": sums}


def normed(norm: Norm, z: Tensor) -> Tensor:
    """The norm of [B, T, H, d], whose gains have a leading axis of heads."""
    return norm(z.transpose(1, 2)).transpose(1, 2)


def _convolved(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    padded = F.pad(x.mT, (kernel.shape[-1] - 1, 0))
    return F.conv1d(padded, kernel, bias, groups=len(kernel)).mT


def video_layer(model, p, x, case, tables=None, causal=False, cuts=()):
    """TTTMLP of ttt-video-dit: outputs and state. `causal`: a position reads none after it."""
    size, heads = case["mb"], case["heads"]
    lanes, length, channels = x.shape
    width = channels // heads
    q, k, v = (
        (x @ p[f"w{n}.weight"].mT + p[f"w{n}.bias"]).unflatten(-1, (heads, width)) for n in "qkv"
    )
    q, k = (F.normalize(z, dim=-1, eps=1e-12) for z in (q, k))
    if tables is not None:  # of the last positions; text in front of them is not turned
        text = length - len(tables[0])
        q, k = (torch.cat([z[:, :text], rotated(z[:, text:], *tables)], dim=1) for z in (q, k))
    gain, bias = p["ttt_norm_weight"], p["ttt_norm_bias"]
    missing = v - k
    centred = missing - missing.mean(-1, keepdim=True)
    targets = gain * centred / (missing.std(-1, keepdim=True) + 1e-8) + bias
    rates = x @ p["learnable_ttt_lr_weight"][:, 0].mT + p["learnable_ttt_lr_bias"][:, 0]
    rates = case["base_lr"] / (width * size) * rates.sigmoid()
    norm = Norm(gain[:, None], bias[:, None], 1e-8)
    positions = Positions(q, k, targets, rates, torch.ones_like(rates))
    begin = tuple(w.expand(lanes, -1, -1, -1) for w in kernels_of(p))
    newest = 0 if causal else size
    read, kernels, _ = in_pieces(model, norm, positions, size, newest, begin, cuts)
    y = (q + normed(norm, read)).flatten(2)
    y = F.layer_norm(y, [channels], p["post_norm.weight"], p["post_norm.bias"], 1e-6)
    return {"out": y @ p["wo.weight"].mT + p["wo.bias"], "now": kernels}


def video_block(model, p, gates, x, case, tables):
    """The gated pass forward, then the gated pass over the video from its end: outputs."""
    text = case["seq_text_length"]

    def layer(z):
        return video_layer(model, p, z, case, tables)["out"]

    def gated(z, direction):
        a = [gates[f"{direction}_ssm_gating_{part}"] for part in ("text", "video")]
        return torch.cat([a[0].tanh() * z[:, :text], a[1].tanh() * z[:, text:]], dim=1)

    def turned(z):
        return torch.cat([z[:, :text], z[:, text:].flip(1)], dim=1)

    y = x + gated(layer(x), "forward")
    return y + gated(turned(layer(turned(y))), "backward")


def fla_layer(model, a, case, cuts=()):
    """chunk_ttt_linear_ref of flash-linear-attention: outputs and state."""
    size, eps, scale = case["mini_batch"], case["eps"], case["scale"]
    rest = -a["q"].shape[1] % size  # they fill the last mini-batch with zeros, which are written

    def filled(z):
        return F.pad(z, (0, 0, 0, 0, 0, rest))

    q, k, v = (filled(a[n]) for n in "qkv")
    eta = torch.cat([a["eta"], a["eta"][:, -1:].expand(-1, rest, -1, -1)], dim=1)[..., 0]
    lanes, length, heads, width = q.shape
    zeros = q.new_zeros(lanes, heads, width, width), q.new_zeros(lanes, heads, 1, width)
    begin = (joined(a.get("initial_state", zeros[0]), a.get("initial_state_bias", zeros[1])),)
    norm = Norm(a["w"][:, None], a["b"][:, None], eps)
    # The reading position's rate multiplies all steps before it.
    positions = Positions(scale * q, k, v - k, torch.ones_like(eta), eta)
    read, kernels, _ = in_pieces(model, norm, positions, size, 0, begin, cuts)
    out = (read + normed(norm, read))[:, : length - rest]
    named = by_name(kernels)
    return {"out": out, "final_state": named["W1"], "final_bias": named["b1"]}
