"""Whether gradients pass through a model that is not being trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tta_bench.model.compilation import run_split

if TYPE_CHECKING:
    from tta_bench.model.split import Split

_WIDTH = 4
"""Number of tokens that are read."""


def gradient_error(split: Split) -> str | None:
    """What a backward pass through a few tokens ends in; None if it ends well.

    Reformer, for one, has it computed by code of its own, which demands a model in training mode.
    """
    if split.net.device.type == "meta":
        return None  # there are no values to compute with
    # The gradient of the input embedding passes through every block.
    own = split.net.get_input_embeddings()
    leaves = {
        f"net.{name}": value.detach().requires_grad_()
        for name, value in split.net.named_parameters()
        if value is getattr(own, "weight", None)
    }
    ids = torch.arange(_WIDTH, device=split.net.device)[None]
    try:
        with torch.enable_grad():
            logits, _ = run_split(split, leaves, "logits", ids, use_cache=False)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # code of others: there is no end to what it raises
        return type(error).__name__
    return None
