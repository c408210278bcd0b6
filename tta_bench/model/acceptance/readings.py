"""Short readings of random tokens, which show how a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.model.window import Window

if TYPE_CHECKING:
    from tta_bench.model.cache import LaneCache
    from tta_bench.model.language_model import LanguageModel

LENGTH = 16
"""Tokens of a reading, unless there is something farther away to be reached."""

_SEED = 0


def random_ids(model: LanguageModel, lanes: int, length: int) -> Tensor:
    """Token ids [lanes, length] that the model can read, special tokens left out."""
    special = set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)
    known = torch.tensor([id for id in range(model.readable_ids) if id not in special])
    if len(known) < 2:
        known = torch.arange(model.readable_ids)
    picked = torch.randint(
        len(known), (lanes, length), generator=torch.Generator().manual_seed(_SEED)
    )
    return known[picked].to(model.device)


@torch.inference_mode()
def read(
    model: LanguageModel,
    ids: Tensor,
    lengths: Sequence[int],
    scored: int,
    past: LaneCache | None = None,
) -> Tensor:
    """Log-probabilities [B, scored, V] after the last `scored` inputs of each lane, as float64.

    Lanes with fewer inputs than that have them in the first columns, and zeros after them.

    Args:
        model: reads as it does for a method.
        ids: [B, L] token ids; those at and after `lengths` are padding.
        lengths: number of inputs of each lane.
        scored: number of predictions looked at.
        past: carried keys and values; what is read is committed to it.
    """
    valid = torch.tensor(lengths, device=ids.device)
    looked_at = valid.clamp(max=scored)
    columns = torch.arange(ids.shape[1], device=ids.device)
    padded = torch.where(columns < valid[:, None], ids, 0)
    window = Window(padded, valid, looked_at, scored, past)
    found = model.logits(window).full().double().log_softmax(-1)
    if past is not None:
        past.commit(valid)
    return torch.where(window.mask[:, :, None], found, 0.0)
