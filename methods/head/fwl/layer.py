"""The mathematics of Fast Weight Layers (Clark et al. 2022, arXiv 2212.02475), in closed form.

A block between the body of a language model and its unembedding E. At position t, reading x_t:

    z1 = x W1 + b1      a1 = relu(z1)^2      z2 = a1 W2 + b2
    y  = alpha LN(z2) + beta [+ skip]        logits = E y

*Slow pass.* With these slow weights, the inner loss is sum_s w_s CE_s, and each position s leaves a
gradient at each layer. With g = dLoss/dy, u = LN(z2) before gain and bias, and sigma its deviation:

    d_beta = g    d_alpha = g u    d2 = (v - mean(v) - u mean(v u)) / sigma,   v = alpha g
    d1 = (d2 W2^T) 2 relu(z1)

*Fast pass.* Position t reads with weights that took one gradient step on all s < t:

    z1~ = z1 - sum_{s<t} k_W1(t-s) (x_s . x_t) d1_s            - sum_{s<t} k_b1(t-s) d1_s
    z2~ = a1~ W2 + b2 - sum_{s<t} k_W2(t-s) (a1_s . a1~_t) d2_s - sum_{s<t} k_b2(t-s) d2_s
    alpha~ = alpha - sum_{s<t} k_alpha(t-s) d_alpha_s
    beta~ = beta - sum_{s<t} k_beta(t-s) d_beta_s

k(n) says what is left of a step after n tokens. The paper's never fades, k(n) = eta. With learned
forgetting it is sum_r eta_r 2^(-(n-1)/h_r): one or several step sizes eta_r, each with a half-life
h_r in tokens. The query of the second layer is the fast activation, its keys are slow ones. All
gradients are taken at the slow weights, so the step on a prefix is a sum over its positions: linear
attention with keys x, a1 and values d1, d2, and a state of fixed size. The label of s is the input
of s + 1, hence the strict s < t. Steps of the kernels may be preconditioned (`precondition`).

Everything here is differentiable, the gradients d included: training the slow weights through the
fast pass needs no more than `loss.backward()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.heads import Unembedding, loss_gradient
from tta_bench_methods.head.fwl.forgetting import after_chunk, inside_chunk, left, spread
from tta_bench_methods.head.fwl.precondition import Kind, preconditioner
from tta_bench_methods.head.fwl.writes import LAYER, SlowPass, Writes

FAST = ("w1", "b1", "w2", "b2", "alpha", "beta")
"""Every tensor that can be fast, as in the authors' TensorFlow code."""

KERNELS = ("w1", "w2")
"""Those that are matrices."""

State = Mapping[str, Tensor]
"""What a stream has written: for each fast tensor the sum of its gradients, as faded as it is at
the next position, a copy for each rate of forgetting: [B, in, R out] and [B, R, n]; and of a fast
kernel what its preconditioner keeps, [B, 1, ...], named by both: `w1.squares`."""


class FastWeightLayer(nn.Module):
    """The block, with learned step sizes for each tensor that is fast.

    Args:
        sizes: (d, m, o), widths of the input, the hidden layer and the output.
        fast: names of the tensors that are fast, of `FAST`.
        step: eta at the start, for every tensor.
        half_lives: half-lives h_r in tokens at the start, one for each rate of forgetting; none:
            nothing is ever forgotten.
        eps: added to the variance in LN. The larger it is, the more a small z2 stays small.
        precondition: what the steps of the fast kernels are multiplied by.

    Kernels are [in, out] and start as N(0, 0.05^2), as in the authors' code. Step sizes and
    half-lives are kept as logarithms: they stay positive, and a training step changes them by a
    ratio.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        fast: Sequence[str] = FAST,
        step: float = 1.0,
        half_lives: Sequence[float] = (),
        eps: float = 1e-6,
        precondition: Kind = "off",
    ):
        super().__init__()
        inner, width, outer = sizes
        self.eps = eps
        self.w1 = nn.Parameter(0.05 * torch.randn(inner, width))
        self.b1 = nn.Parameter(torch.zeros(width))
        self.w2 = nn.Parameter(0.05 * torch.randn(width, outer))
        self.b2 = nn.Parameter(torch.zeros(outer))
        self.alpha = nn.Parameter(torch.ones(outer))
        self.beta = nn.Parameter(torch.zeros(outer))
        self.rates = max(1, len(half_lives))
        # Rates share the step at the start, so that their number does not change what is written.
        start = torch.full((self.rates,), step / self.rates).log()
        self.log_steps = nn.ParameterDict({name: nn.Parameter(start.clone()) for name in fast})
        kinds = dict.fromkeys(LAYER.get(name, "norm") for name in fast) if half_lives else {}
        lives = torch.tensor(list(half_lives)).log()
        self.log_half_lives = nn.ParameterDict({k: nn.Parameter(lives.clone()) for k in kinds})
        self.first_is_fast = "w1" in self.log_steps or "b1" in self.log_steps
        # Of `Preconditioner`; the types of nn.Module hide what it has beside forward.
        self.preconditioners: Any = nn.ModuleDict(
            {
                name: preconditioner(precondition, *self.get_parameter(name).shape)
                for name in KERNELS
                if name in fast
            }
        )
        # While nothing fades, a sum may fold into its kernel: one product fewer.
        self.folds = not half_lives and precondition == "off"

    @property
    def fast(self) -> tuple[str, ...]:
        """Names of the tensors that are fast."""
        return tuple(self.log_steps.keys())

    def forward(
        self,
        x: Tensor,
        labels: Tensor,
        weights: Tensor,
        unembedding: Unembedding,
        skip: Tensor | None = None,
        chunk: int | None = None,
        fresh: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Streams of T positions: the outputs y and y~, slow and fast, [B, T, o], and the state.

        Args:
            x: [B, T, d].
            labels: [B, T] int64, the token after each position.
            weights: [B, T], the weight of each position in the inner loss, normaliser included;
                0 at padding.
            unembedding: E, or a function.
            skip: [B, T, o], added to the output.
            chunk: positions read at once; any number that divides T gives the same result.
            fresh: [B, T / chunk] bool, where a chunk begins a stream of its own; by default none
                does.
            state: what was written before; by default nothing.
        """
        chunk = x.shape[1] if chunk is None else chunk
        state = self.empty_state(x.shape[0]) if state is None else state
        slow = self.slow(x, skip)
        writes = self.writes(slow, labels, weights, unembedding)
        pieces = []
        for number, start in enumerate(range(0, x.shape[1], chunk)):
            part = slice(start, start + chunk)
            if fresh is not None:
                kept = (~fresh[:, number, None, None]).to(x.dtype)
                state = {name: value * kept for name, value in state.items()}
            pieces.append(self.read(slow.at(part), writes.at(part), state))
            state = self.write(writes.at(part), state)
        return slow.y, torch.cat(pieces, dim=1), dict(state)

    def empty_state(self, lanes: int) -> dict[str, Tensor]:
        """The state of streams of which nothing was read."""
        state = {}
        for name in self.fast:
            value = self.get_parameter(name)
            *inner, outer = value.shape
            wide = [*inner, self.rates * outer] if inner else [self.rates, outer]
            state[name] = value.new_zeros(lanes, *wide)
        for kernel, step in self.preconditioners.items():
            kept = step.fresh(self.get_parameter(kernel), lanes)
            state |= {f"{kernel}.{name}": value for name, value in kept.items()}
        return state

    def slow(self, x: Tensor, skip: Tensor | None = None) -> SlowPass:
        """Reads with the slow weights."""
        z1 = x @ self.w1 + self.b1
        a1 = z1.relu().square()
        u, inverse_sigma = _normalise(a1 @ self.w2 + self.b2, self.eps)
        y = self.alpha * u + self.beta
        return SlowPass(x, skip, z1, a1, u, inverse_sigma, y if skip is None else y + skip)

    def writes(
        self, slow: SlowPass, labels: Tensor, weights: Tensor, unembedding: Unembedding
    ) -> Writes:
        """The gradient of sum_s w_s CE_s at every fast tensor; arguments as in `forward`."""
        gradient = loss_gradient(slow.y, labels, weights, unembedding)
        v = self.alpha * gradient
        mean, along = v.mean(-1, keepdim=True), (v * slow.u).mean(-1, keepdim=True)
        d2 = (v - mean - slow.u * along) * slow.inverse_sigma
        values = {}
        if self.first_is_fast:
            values["first"] = (2 * d2) @ self.w2.mT * slow.z1.relu()
        if "w2" in self.log_steps or "b2" in self.log_steps:
            values["second"] = d2
        if "alpha" in self.log_steps:
            values["alpha"] = gradient * slow.u
        if "beta" in self.log_steps:
            values["beta"] = gradient
        keys = slow.keys
        return Writes({name: keys[name] for name in self.fast if name in keys}, values)

    def read(self, slow: SlowPass, writes: Writes, state: State) -> Tensor:
        """Reads with the fast weights: y~ [B, T, o].

        Args:
            slow: the slow pass of T positions.
            writes: those of the first T - 1, or of all: nobody reads the last one's here.
            state: what was written before the first.
        """
        a1 = slow.a1
        if self.first_is_fast:
            z1 = slow.z1 - self._step("w1", "b1", slow.x, slow, writes, state)
            a1 = z1.relu().square()
        z2 = self._second(a1, slow, writes, state)
        u, _ = _normalise(z2, self.eps)
        gain, bias = (
            self.get_parameter(name) - self._vector_step(name, slow.x.shape[1], writes, state)
            for name in ("alpha", "beta")
        )
        y = gain * u + bias
        return y if slow.skip is None else y + slow.skip

    def write(
        self, writes: Writes, state: State, lengths: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The state after these positions; the one given stays as it is. Arguments as in `add`."""
        faded = self._faded(writes, lengths)
        after = self._keys_seen(writes, state, lengths)
        for name in self.fast:
            held = state[name]
            values, kept = faded[LAYER.get(name, name)]
            old = held if kept is None else held * spread(kept, held, name in writes.keys)
            if name in writes.keys:
                after[name] = torch.baddbmm(old, writes.keys[name].mT, values)
            else:
                after[name] = old + values.sum(1).view(held.shape)
        return after

    def add(self, writes: Writes, state: State, lengths: Tensor) -> None:
        """Writes into the state itself, where lanes may have fewer positions than their neighbours.

        Args:
            writes: of T positions; zeros in those that a lane does not have.
            state: is changed in place.
            lengths: [B] int64, positions of each lane. Where it is 0, nothing changes.
        """
        faded = self._faded(writes, lengths)
        for name, value in self._keys_seen(writes, state, lengths).items():
            state[name].copy_(value)
        for name in self.fast:
            held = state[name]
            values, kept = faded[LAYER.get(name, name)]
            if kept is not None:
                held.mul_(spread(kept, held, name in writes.keys))
            if name in writes.keys:
                # Not baddbmm_: the FLOP counter does not know it.
                torch.baddbmm(held, writes.keys[name].mT, values, out=held)
            else:
                held.add_(values.sum(1).view(held.shape))

    def _keys_seen(self, writes: Writes, state: State, lengths: Tensor | None) -> dict[str, Tensor]:
        """What the preconditioners keep, after these positions."""
        return {
            f"{kernel}.{name}": value
            for kernel, step in self.preconditioners.items()
            for name, value in step.after(writes.keys[kernel], _of(kernel, state), lengths).items()
        }

    def _faded(
        self, writes: Writes, lengths: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """By gradient: how much of it is left after the last position, and of what was before.

        The values, a copy for each rate of forgetting, are [B, T, R out], the shares of the state
        [B or 1, R]; None where nothing is forgotten.
        """
        return {
            name: after_chunk(values, self._lives(name), lengths)
            for name, values in writes.values.items()
        }

    def _lives(self, name: str) -> Tensor | None:
        """Logarithms of the half-lives of a tensor, or of a gradient; None if it never fades."""
        kind = "norm" if name in ("alpha", "beta") else LAYER.get(name, name)
        return self.log_half_lives.get(kind)

    def _second(self, a1: Tensor, slow: SlowPass, writes: Writes, state: State) -> Tensor:
        if "w2" in self.log_steps and self.folds:
            kernel = self.w2 - self.log_steps["w2"].exp() * state["w2"]
            rest = self._step("w2", "b2", a1, slow, writes, state, folded=True)
            return torch.bmm(a1, kernel.to(a1.dtype)) + self.b2 - rest
        return a1 @ self.w2 + self.b2 - self._step("w2", "b2", a1, slow, writes, state)

    def _step(
        self,
        kernel: str,
        bias: str,
        queries: Tensor,
        slow: SlowPass,
        writes: Writes,
        state: State,
        folded: bool = False,
    ) -> Tensor | float:
        """What the fast kernel and the fast bias of one layer subtract: [B, T, out], or 0.

        Both write the same values, so inside the chunk one product serves the two.
        """
        length = queries.shape[1]
        inside: Tensor | float = 0.0
        if kernel in self.log_steps:
            step = self.preconditioners[kernel]
            queries = step.queries(queries, slow.keys[kernel], _of(kernel, state))
            keys = writes.keys[kernel]
            kept = self._inside(kernel, length, keys.shape[1])
            inside = torch.bmm(queries, keys.mT) * kept
        if bias in self.log_steps:
            inside = inside + self._inside(bias, length, writes.of(bias).shape[1])
        if not isinstance(inside, Tensor):
            return 0.0
        values = writes.of(kernel)
        total = inside.expand(len(values), -1, -1).to(values.dtype) @ values
        if kernel in self.log_steps and not folded:
            found = torch.bmm(queries, state[kernel].to(queries.dtype))
            total = self._plus_held(kernel, total, found.unflatten(2, (self.rates, -1)))
        if bias in self.log_steps:
            total = self._plus_held(bias, total, state[bias][:, None])
        return self.preconditioners[kernel].steps(total) if kernel in self.log_steps else total

    def _vector_step(self, name: str, length: int, writes: Writes, state: State) -> Tensor | float:
        """What a fast gain or bias of the norm subtracts: [B, T, n], or 0."""
        if name not in self.log_steps:
            return 0.0
        values = writes.values[name]
        if self.log_half_lives:
            kept = self._inside(name, length, values.shape[1])
            inside = kept.expand(len(values), -1, -1).to(values.dtype) @ values
        else:
            before = F.pad(values, (0, 0, 1, 0)).cumsum(1)[:, :length]
            inside = before * self.log_steps[name].exp()
        return self._plus_held(name, inside, state[name][:, None])

    def _inside(self, name: str, length: int, count: int) -> Tensor:
        """[T, count]: what position t still has of the step that s wrote; 0 unless s < t."""
        return inside_chunk(self.log_steps[name], self._lives(name), length, count)

    def _plus_held(self, name: str, total: Tensor, found: Tensor) -> Tensor:
        """Adds to `total` [B, T, n] what the state gives: `found` [B, T or 1, R, n], faded."""
        share = left(self._lives(name), torch.arange(total.shape[1], device=total.device))
        scale = self.log_steps[name].exp() * (1.0 if share is None else share)  # [R] or [T, R]
        for rate in range(self.rates):
            total = torch.addcmul(total, found[:, :, rate], scale[..., rate, None])
        return total


def _normalise(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """LN without gain and bias, and 1 / sigma."""
    centred = z - z.mean(-1, keepdim=True)
    inverse_sigma = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centred * inverse_sigma, inverse_sigma


def _of(kernel: str, state: State) -> dict[str, Tensor]:
    """What the preconditioner of a kernel keeps, by its own names."""
    start = f"{kernel}."
    return {
        name.removeprefix(start): value for name, value in state.items() if name.startswith(start)
    }
