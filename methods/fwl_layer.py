"""The mathematics of Fast Weight Layers (Clark et al. 2022, arXiv 2212.02475), in closed form.

A block between the body of a language model and its unembedding E. At position t, reading x_t:

    z1 = x W1 + b1      a1 = relu(z1)^2      z2 = a1 W2 + b2
    y  = alpha LN(z2) + beta [+ skip]        logits = E y

*Slow pass.* With these slow weights, the inner loss is sum_s w_s CE_s, and each position s leaves a
gradient at each layer. With g = dLoss/dy, u = LN(z2) before gain and bias, and sigma its deviation:

    d_beta = g    d_alpha = g u    d2 = (v - mean(v) - u mean(v u)) / sigma,   v = alpha g
    d1 = (d2 W2^T) 2 relu(z1)

*Fast pass.* Position t reads with weights that took one gradient step on all s < t:

    z1~ = z1 - eta_W1 sum_{s<t} (x_s . x_t) d1_s           - eta_b1 sum_{s<t} d1_s
    z2~ = a1~ W2 + b2 - eta_W2 sum_{s<t} (a1_s . a1~_t) d2_s - eta_b2 sum_{s<t} d2_s
    alpha~ = alpha - eta_alpha sum_{s<t} d_alpha_s
    beta~ = beta - eta_beta sum_{s<t} d_beta_s

The query of the second layer is the fast activation, its keys are slow ones. All gradients are
taken at the slow weights, so the step on a prefix is a sum over its positions: linear attention
with keys x, a1 and values d1, d2, and a state of fixed size. The label of s is the input of s + 1,
hence the strict s < t. Nothing is forgotten: the sums grow with the stream.

Everything here is differentiable, the gradients d included: training the slow weights through the
fast pass needs no more than `loss.backward()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLICE_BYTES = 128 * 2**20
"""Float32 logits alive at once in the slow pass; more is cut into slices of positions."""

State = Mapping[str, Tensor]
"""What a stream has written: for each fast tensor the sum of its gradients, [B, *its shape]."""


class SlowPass(NamedTuple):
    """Activations with the slow weights, each [B, T, ...]."""

    x: Tensor  # input [d]
    skip: Tensor  # added to the output [o]
    z1: Tensor  # [m]
    a1: Tensor  # [m]
    u: Tensor  # normalised z2 [o]
    inverse_sigma: Tensor  # [1]
    y: Tensor  # output [o]

    def at(self, columns: slice | Tensor) -> SlowPass:
        """Some of the positions: a slice of them, or one a lane by its index [B, 1]."""
        if isinstance(columns, slice):
            return SlowPass(*(value[:, columns] for value in self))
        return SlowPass(*(value.take_along_dim(columns[..., None], dim=1) for value in self))


class Writes(NamedTuple):
    """What positions leave behind for the tensors that are fast, by name."""

    keys: dict[str, Tensor]  # of the kernels: x, a1
    values: dict[str, Tensor]  # of every tensor: d1, d2, d_alpha, d_beta


class FastWeightLayer(nn.Module):
    """The block, with one (learned) step size for each tensor that is fast.

    Args:
        sizes: (d, m, o), widths of the input, the hidden layer and the output.
        unembed: logits [..., V] of outputs [..., o].
        vocab_size: V.
        step_sizes: by the name of the tensor: w1, b1, w2, b2, alpha, beta; what is not named is
            never fast. One parameter may serve several tensors.
        eps: added to the variance in LN. The larger it is, the more a small z2 stays small.

    Kernels are [in, out] and start as N(0, 0.05^2), as in the authors' code.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        unembed: Callable[[Tensor], Tensor],
        vocab_size: int,
        step_sizes: Mapping[str, nn.Parameter],
        eps: float = 1e-6,
    ):
        super().__init__()
        inner, width, outer = sizes
        self.unembed = unembed
        self.vocab_size = vocab_size
        self.eps = eps
        self.w1 = nn.Parameter(0.05 * torch.randn(inner, width))
        self.b1 = nn.Parameter(torch.zeros(width))
        self.w2 = nn.Parameter(0.05 * torch.randn(width, outer))
        self.b2 = nn.Parameter(torch.zeros(outer))
        self.alpha = nn.Parameter(torch.ones(outer))
        self.beta = nn.Parameter(torch.zeros(outer))
        self.step_sizes = nn.ParameterDict(dict(step_sizes))
        self.first_is_fast = "w1" in self.step_sizes or "b1" in self.step_sizes

    def forward(
        self, x: Tensor, labels: Tensor, weights: Tensor, skip: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Whole streams at once: the outputs y and y~, slow and fast, each [B, T, o].

        Args:
            x: [B, T, d].
            labels: [B, T] int64, the token after each position. The last is never used.
            weights: [B, T], the weight of each position in the inner loss, normaliser included;
                0 at padding.
            skip: [B, T, o], added to the output.
        """
        slow = self.slow(x, skip)
        writes = self.writes(slow.at(slice(0, -1)), labels[:, :-1], weights[:, :-1])
        return slow.y, self.read(slow, writes, self.empty_state(x.shape[0]))

    def empty_state(self, lanes: int) -> dict[str, Tensor]:
        """The state of streams of which nothing was read."""
        tensors = {name: self.get_parameter(name) for name in self.step_sizes}
        return {name: value.new_zeros(lanes, *value.shape) for name, value in tensors.items()}

    def slow(self, x: Tensor, skip: Tensor | None = None) -> SlowPass:
        """Reads with the slow weights."""
        z1 = x @ self.w1 + self.b1
        a1 = z1.relu().square()
        u, inverse_sigma = _normalise(a1 @ self.w2 + self.b2, self.eps)
        skip = torch.zeros_like(u) if skip is None else skip
        return SlowPass(x, skip, z1, a1, u, inverse_sigma, self.alpha * u + self.beta + skip)

    def loss_gradient(self, y: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """E^T (p - onehot(label)) times the weight, [B, T, o]: the inner loss's gradient at y.

        Autograd takes it through `unembed`, whatever scaling or capping that does. Logits live for
        a slice of positions at a time.
        """
        differentiable = torch.is_grad_enabled()
        step = max(1, SLICE_BYTES // (4 * self.vocab_size * max(1, y.shape[0])))
        pieces = [torch.zeros_like(y[:, :0])]
        if not y.requires_grad:
            y = y.detach().requires_grad_()
        for start in range(0, y.shape[1], step):
            part = slice(start, start + step)
            with torch.enable_grad():
                point = y[:, part]
                logits = self.unembed(point).to(y.dtype).flatten(0, 1)
                losses = F.cross_entropy(logits, labels[:, part].flatten(), reduction="none")
                loss = (losses * weights[:, part].flatten()).sum()
                pieces.extend(torch.autograd.grad(loss, point, create_graph=differentiable))
        return torch.cat(pieces, dim=1)

    def writes(self, slow: SlowPass, labels: Tensor, weights: Tensor) -> Writes:
        """The gradient of sum_s w_s CE_s at every fast tensor; arguments as in `forward`."""
        gradient = self.loss_gradient(slow.y, labels, weights)
        v = self.alpha * gradient
        mean, along = v.mean(-1, keepdim=True), (v * slow.u).mean(-1, keepdim=True)
        d2 = (v - mean - slow.u * along) * slow.inverse_sigma
        values = {"w2": d2, "b2": d2, "alpha": gradient * slow.u, "beta": gradient}
        if self.first_is_fast:
            values["w1"] = values["b1"] = (d2 @ self.w2.mT) * 2 * slow.z1.relu()
        keys = {"w1": slow.x, "w2": slow.a1}
        return Writes(
            {name: keys[name] for name in self.step_sizes if name in keys},
            {name: values[name] for name in self.step_sizes},
        )

    def read(self, slow: SlowPass, writes: Writes, state: State) -> Tensor:
        """Reads with the fast weights: y~ [B, T, o].

        Args:
            slow: the slow pass of T positions.
            writes: those of the first T - 1; nobody reads the last one's here.
            state: what was written before the first.
        """
        a1 = slow.a1
        if self.first_is_fast:
            z1 = self._kernel("w1", slow.x, writes, state) + self._vector("b1", writes, state)
            a1 = z1.relu().square()
        z2 = self._kernel("w2", a1, writes, state) + self._vector("b2", writes, state)
        u, _ = _normalise(z2, self.eps)
        gain, bias = self._vector("alpha", writes, state), self._vector("beta", writes, state)
        return gain * u + bias + slow.skip

    def write(self, writes: Writes, state: State) -> dict[str, Tensor]:
        """The state after these positions; the one given stays as it is."""
        return {
            name: torch.baddbmm(held, writes.keys[name].mT, writes.values[name])
            if name in writes.keys
            else held + writes.values[name].sum(1)
            for name, held in state.items()
        }

    def flops(self, positions: int) -> float:
        """FLOPs of reading and writing C = `positions` of one lane in one step, E apart.

        With every tensor fast and m = 4d: 56 d^2 + 20 d (C - 1) per position.
        """
        (inner, width), outer = self.w1.shape, self.w2.shape[1]
        first, second = inner * width, width * outer
        products = first + 2 * second  # slow pass, and the fast second layer
        pairs = 0
        if self.first_is_fast:
            products += first + second  # its fast pass, d1
        if "w1" in self.step_sizes:
            products += first  # the sum of x d1
            pairs += inner + width
        if "w2" in self.step_sizes:
            products += second  # the sum of a1 d2
            pairs += width + outer
        return 2.0 * positions * (products + pairs * (positions - 1))

    def _kernel(self, name: str, queries: Tensor, writes: Writes, state: State) -> Tensor:
        """queries_t @ (W - eta sum_{s<t} key_s value_s^T): [B, T, out]."""
        weight = self.get_parameter(name)
        if name not in self.step_sizes:
            return queries @ weight
        eta = self.step_sizes[name]
        similar = torch.bmm(queries, writes.keys[name].mT).tril(-1)  # strictly s < t
        now = torch.bmm(similar, writes.values[name])
        return torch.bmm(queries, weight - eta * state[name]) - eta * now

    def _vector(self, name: str, writes: Writes, state: State) -> Tensor:
        """b - eta sum_{s<t} value_s: [B, T, n], or [n] if it is not fast."""
        slow = self.get_parameter(name)
        if name not in self.step_sizes:
            return slow
        values = writes.values[name]
        sums = torch.cat([state[name][:, None], values], dim=1).cumsum(1)
        return slow - self.step_sizes[name] * sums


def _normalise(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """LN without gain and bias, and 1 / sigma."""
    centred = z - z.mean(-1, keepdim=True)
    inverse_sigma = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centred * inverse_sigma, inverse_sigma
