"""Causal attention over whole windows without an attention mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

NAME = "tta_bench_causal"
TOLERANCE = 1e-3
"""Largest difference between kernels that is accepted, relative to the spread of the logits."""


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention; query [B, H, T, D], key and value [B, H_kv, S, D], result [B, T, H, D].

    The SDPA path of transformers builds an explicit mask whenever it is compiled without a cache,
    because it looks for packed sequences, and with a mask the flash kernel cannot be used. For an
    attention function without a mask function of its own, transformers builds no mask; `mask` is
    then None or the mask of a carried cache.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    mixed = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None, scale=kwargs.get("scaling")
    )
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, causal_attention)


@torch.no_grad()
def use_causal_attention(net: Any) -> None:
    """Makes a model use `causal_attention`, unless its own attention is more than causal."""
    config = net.config.get_text_config()
    special = ("sliding_window", "attn_logit_softcapping")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    before = config._attn_implementation
    if before == NAME or kinds != {"full_attention"}:
        return
    if any(getattr(config, name, None) for name in special):
        return
    ids = torch.arange(16, device=net.device)[None]
    own = net(ids, use_cache=False).logits.float()
    net.set_attn_implementation(NAME)
    found = net(ids, use_cache=False).logits.float()
    tolerance = TOLERANCE if net.dtype == torch.float32 else 50 * TOLERANCE
    if not (found - own).abs().max() <= tolerance * own.std():
        net.set_attn_implementation(before)
