"""How near the losses of a second reading must come to those of the run.

Where both take the same path (one lane, uncompiled, float32 or wider), they agree to the last
digits. Elsewhere the same arithmetic in another order rounds otherwise: documents side by side,
compiled blocks, kernels of a GPU, 16-bit dtypes. Adaptation can amplify that to whole nats at
single tokens, but it favours neither reading: what peeks or remembers does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

EXACT_TOKEN = 2e-3
"""The largest difference of a token, in nats, between two readings on one path."""


@dataclass(frozen=True)
class Agreement:
    """The rule for two readings of one run.

    Attributes:
        exact: whether both take the same path.
        token: the least difference at one place that counts, in nats.
        mean: the least difference of a mean that counts, in nats.
    """

    exact: bool
    token: float
    mean: float

    def of_stretch(self, recorded: np.ndarray, found: np.ndarray) -> str | None:
        """What is wrong with the losses [n] of a second reading; None if nothing is."""
        difference = _difference(recorded, found)
        if difference is None:
            return "a loss is not finite"
        if self.exact:
            worst = int(np.abs(difference).argmax())
            if abs(difference[worst]) <= self.token:
                return None
            return f"token {worst}: {recorded[worst]:.4g} nats in the run, {found[worst]:.4g} now"
        mean, error = difference.mean(), difference.std() / np.sqrt(len(difference))
        if abs(mean) <= max(self.mean, 5 * error):
            return None
        return f"the mean of {len(difference)} tokens moved by {mean:+.2g} nats"

    def of_places(
        self, gaps: Sequence[float], recorded: np.ndarray, found: np.ndarray
    ) -> float | None:
        """The gap, in nats, that rounding does not explain; None if there is none.

        Args:
            gaps: the second reading minus the run, at each place.
            recorded: losses of the run, [n], where nothing was replaced.
            found: the same of the second reading: they tell how noisy the path is.
        """
        difference = _difference(recorded, found)
        noise = 0.0 if self.exact or difference is None else float(difference.std())
        worst = max(gaps, key=lambda gap: abs(gap) if np.isfinite(gap) else np.inf)
        if not abs(worst) <= max(self.token, 8 * noise):
            return worst
        mean = float(np.mean(gaps))
        return None if abs(mean) <= max(self.token, 5 * noise / np.sqrt(len(gaps))) else mean


def agreement_of(dtype: torch.dtype, same_path: bool) -> Agreement:
    """The rule for a model of this dtype.

    Args:
        dtype: dtype of the weights.
        same_path: whether the run had one lane and was not compiled.
    """
    if dtype.itemsize <= 2:
        return Agreement(exact=False, token=0.5, mean=2e-2)
    return Agreement(exact=same_path, token=EXACT_TOKEN, mean=1e-3)


def _difference(recorded: np.ndarray, found: np.ndarray) -> np.ndarray | None:
    difference = found.astype(np.float64) - recorded.astype(np.float64)
    return difference if np.isfinite(difference).all() else None
