"""How near the losses of a second reading must come to those of the run.

The same arithmetic in another order rounds otherwise: documents side by side, compiled blocks and
kernels of a GPU all do. What may differ is known by dtype; a method that peeks or remembers differs
by whole nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Tolerance:
    """The largest differences, in nats, that rounding explains.

    Attributes:
        token: of a single token.
        mean: of the mean over a stretch of tokens.
    """

    token: float
    mean: float


EXACT = Tolerance(token=2e-3, mean=1e-4)
ROUNDED = Tolerance(token=1.5, mean=2e-2)
"""For 16-bit dtypes: single tokens were seen to move by 0.8 nats between equal programs."""


def tolerance_of(dtype: torch.dtype) -> Tolerance:
    """The tolerance for models of this dtype."""
    return ROUNDED if dtype.itemsize <= 2 else EXACT


def disagreement(recorded: np.ndarray, found: np.ndarray, allowed: Tolerance) -> str | None:
    """What differs beyond rounding between losses [n] of the run and of a second reading.

    Returns:
        A phrase for a sentence, or None where they agree.
    """
    difference = found.astype(np.float64) - recorded.astype(np.float64)
    if not np.isfinite(difference).all():
        return "a loss is not finite"
    worst = int(np.abs(difference).argmax())
    if abs(difference[worst]) > allowed.token:
        return f"token {worst}: {recorded[worst]:.4g} nats in the run, {found[worst]:.4g} now"
    mean = float(difference.mean())
    if abs(mean) > max(allowed.mean, allowed.token / np.sqrt(len(difference)) / 4):
        return f"the mean of {len(difference)} tokens moved by {mean:+.2g} nats"
    return None
