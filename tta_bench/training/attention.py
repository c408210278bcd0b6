"""Attention for training: plain causal windows, never a mask."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

NAME = "tta_bench_causal"


def causal_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Plain causal attention over whole windows; query [B, H, T, D], key and value [B, H_kv, T, D],
    result [B, T, H, D].

    transformers' own SDPA path builds an explicit mask whenever it is compiled without a cache (it
    looks for packed sequences), and a mask rules the flash kernel out. A name that has no mask
    function of its own gets no mask at all.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    mixed = F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=kwargs.get("scaling")
    )
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, causal_attention)


def use_causal_attention(net: Any) -> None:
    """Switches a model to it, unless its attention is more than causal."""
    config = net.config.get_text_config()
    special = ("sliding_window", "attn_logit_softcapping")
    if config.model_type == "llama" and not any(getattr(config, name, None) for name in special):
        net.set_attn_implementation(NAME)
