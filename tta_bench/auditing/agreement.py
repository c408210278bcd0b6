"""How near the losses of a second reading must come to those of the run.

On one path (one lane, uncompiled) they agree to the last digits. Elsewhere the same arithmetic in
another order rounds otherwise: documents side by side, compiled blocks, kernels of a GPU, 16-bit
dtypes. Adaptation can amplify that to whole nats at single tokens. How much it does is measured, by
a reading of a model that differs by a rounding; what peeks or shares differs by more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

TOKEN = 2e-3
"""The least difference of a token that counts, in nats, in float32 and wider."""

TOKEN_OF_16_BITS = 0.5
NOISE_OF_16_BITS = 0.15
"""Root mean square of what rounding moves a token in 16-bit dtypes, in nats, at most."""


@dataclass(frozen=True)
class Agreement:
    """The rule for two readings of the same tokens.

    Attributes:
        token: the least difference of a token that counts, in nats.
        noise: root mean square of the differences that rounding explains, in nats.
    """

    token: float
    noise: float

    def of_stretch(self, recorded: np.ndarray, found: np.ndarray) -> str | None:
        """What is wrong with the losses [n] of a second reading; None if nothing is."""
        difference = found.astype(np.float64) - recorded.astype(np.float64)
        if not np.isfinite(difference).all():
            return "a loss is not finite"
        worst = int(np.abs(difference).argmax())
        if abs(difference[worst]) <= self.token:
            return None
        mean, spread = float(difference.mean()), float(np.sqrt(np.mean(difference**2)))
        if abs(mean) > 5 * self.noise / np.sqrt(len(difference)) + self.token / 10:
            return f"the mean of {len(difference)} tokens moved by {mean:+.2g} nats"
        if spread <= 10 * self.noise:
            return None
        return f"token {worst}: {recorded[worst]:.4g} nats in the run, {found[worst]:.4g} now"

    def of_places(self, gaps: Sequence[float]) -> float | None:
        """The gap, in nats, that rounding does not explain; None if there is none.

        Args:
            gaps: the second reading minus the run, at each place.
        """
        worst = max(gaps, key=lambda gap: abs(gap) if np.isfinite(gap) else np.inf)
        if not abs(worst) <= max(self.token, 10 * self.noise):
            return worst
        mean = float(np.mean(gaps))
        return None if abs(mean) <= max(self.token, 6 * self.noise / np.sqrt(len(gaps))) else mean


def agreement_of(dtype: torch.dtype) -> Agreement:
    """The rule for a model of this dtype, before anything was measured."""
    if dtype.itemsize <= 2:
        return Agreement(TOKEN_OF_16_BITS, NOISE_OF_16_BITS)
    return Agreement(TOKEN, 0.0)
