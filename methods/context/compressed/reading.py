"""A forward pass that reads on from keys and values, whose gradients flow through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values [B, H, P, D] of each layer, keys turned to their positions."""


def read_on(
    net: Any, embedded: Tensor, positions: Tensor, past: Layers, visible: Tensor
) -> tuple[Tensor, Layers]:
    """Hidden states [B, L, d] after the final norm, and the keys and values of the past and them.

    Args:
        net: a causal LM of transformers with rotary positions.
        embedded: [B, L, d], the inputs; each sees those before it.
        positions: [B, L], where they stand.
        past: what lies before them.
        visible: [B, P], the part of it that they see.
    """
    length = embedded.shape[1]
    places = torch.arange(length, device=embedded.device)
    causal = (places <= places[:, None]).expand(len(embedded), -1, -1)
    allowed = torch.cat([visible[:, None].expand(-1, length, -1), causal], dim=-1)
    mask = torch.zeros(allowed.shape, dtype=embedded.dtype, device=embedded.device)
    mask = mask.masked_fill(~allowed, torch.finfo(mask.dtype).min)[:, None]
    cache: Any = DynamicCache()  # its layers are of the kind that has keys
    for number, (keys, values) in enumerate(past):
        cache.update(keys, values, number)
    output = net.get_decoder()(
        inputs_embeds=embedded,
        position_ids=positions,
        past_key_values=cache,
        attention_mask=mask,
        use_cache=True,
        return_dict=True,
    )
    return output.last_hidden_state, [(layer.keys, layer.values) for layer in cache.layers]
