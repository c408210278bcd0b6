"""A stream as blocks: the last tokens of a lane's document, and the chunk behind them."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_bench import Window


def block_of(tokens: Tensor, filled: Tensor, window: Window) -> Window:
    """The chunk of each lane behind the tokens that are remembered.

    Args:
        tokens: [B, K], the newest last.
        filled: [B], how many of them there are.
        window: its chunk alone is read.
    """
    both = torch.cat([tokens, window.chunk_ids], dim=1)
    lengths = torch.where(window.scored > 0, filled + window.scored, 0)
    columns = torch.arange(int(lengths.max()), device=both.device)
    places = (tokens.shape[1] - filled[:, None] + columns).clamp(max=both.shape[1] - 1)
    ids = both.gather(1, places).masked_fill(columns >= lengths[:, None], 0)
    return Window(ids, lengths, window.scored, window.chunk_size)


def remember(tokens: Tensor, filled: Tensor, window: Window) -> None:
    """Moves the chunk's inputs into the memory, in place."""
    both = torch.cat([tokens, window.chunk_ids], dim=1)
    places = torch.arange(tokens.shape[1], device=both.device)
    tokens.copy_(both.gather(1, places + window.scored[:, None]))
    filled.add_(window.scored).clamp_(max=tokens.shape[1])
