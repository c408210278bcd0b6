"""The inner loss of test-time training layers: the norm behind the inner model, and its gradient.

    loss_s = 1/2 |LN(f(k_s)) - target_s|^2,   LN(z) = g (z - mean) / sqrt(var + eps) + b

summed over the features of a head; gain g and bias b are slow weights.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """LN over the last dimension."""

    gain: Tensor  # [..., 1, w]
    bias: Tensor  # [..., 1, w]
    eps: float = 1e-6

    def __call__(self, z: Tensor) -> Tensor:
        return self.gain * self._unit(z)[0] + self.bias

    def loss_gradient(self, z: Tensor, targets: Tensor) -> Tensor:
        """Gradient of 1/2 |LN(z) - target|^2 at z [..., n, w], written out."""
        unit, inverse_sigma = self._unit(z)
        slope = (self.gain * unit + self.bias - targets) * self.gain
        along = (slope * unit).mean(-1, keepdim=True)
        return (slope - slope.mean(-1, keepdim=True) - unit * along) * inverse_sigma

    def _unit(self, z: Tensor) -> tuple[Tensor, Tensor]:
        centred = z - z.mean(-1, keepdim=True)
        inverse_sigma = (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return centred * inverse_sigma, inverse_sigma
