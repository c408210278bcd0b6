"""Every architecture that transformers registers as a causal LM, tiny and with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ARCHITECTURES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCAB = 128

_WIDTH = ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "embedding_dim")
_INNER = ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff", "n_inner")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_LATENT = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim", "head_dim")
_SMALL: dict[str, int] = {
    **dict.fromkeys(_WIDTH, 32),
    **dict.fromkeys((*_INNER, "dff", "d_inner", "ffn_hidden_size", "feed_forward_size"), 48),
    **dict.fromkeys((*_LAYERS, "encoder_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys((*_HEADS, "decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys((*_POSITIONS, "max_target_positions"), 256),
    **dict.fromkeys(_EXPERTS, 4),
    **dict.fromkeys(_LATENT, 8),
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), 16),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "router_hidden_size"), 24),
    **dict.fromkeys(("linear_num_value_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("linear_num_key_heads", "swa_num_key_value_heads", "num_blocks"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "swa_head_dim"), 8),
    **dict.fromkeys(("ext_pw_out_channel", "depthwise_separable_out_channel"), 32),
    "nemo_conv_channels": 32,
    "chunk_size": 16,
    "vocab_size": VOCAB,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "qk_rope_head_dim": 4,
    "rotary_dim": 4,
    "n_group": 1,
    "topk_group": 1,
    "index_topk": 64,
    "index_head_dim": 8,
    "index_n_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Sizes by the names that configurations have for them; a configuration takes those it knows."""

_FULL = {"layer_types": ["full_attention"] * 2}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_expand": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}
_MIXED = {"num_hidden_layers": 2, "layer_types": ["hybrid", "hybrid"]}
_SHARED = {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8}

_MORE: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA,
    "cohere_compass_text": {"rope_parameters": {"full_attention": None}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 64},
    "gemma3n_text": _SHARED | {"intermediate_size": 48, "vocab_size_per_layer_input": VOCAB},
    "gemma4_text": _SHARED | {"vocab_size_per_layer_input": VOCAB, "global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "granitemoehybrid": _MAMBA,
    "helium": {"head_dim": 8, "num_key_value_heads": 4},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "moe_topk": 2},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "longcat_flash": {"head_dim": 4, "num_key_value_heads": 4, "zero_expert_num": 1, "moe_topk": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8},
    "ministral": {"head_dim": 8},
    "mistral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8},
    "opt": {"word_embed_proj_dim": 16},
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [16, 16],
        "attn_layers": ["local", "local"],
    },
    "xlstm": {"num_heads": 4},
    "xmod": {"default_language": "en_XX"},
    "zamba": _MIXED,
    "zamba2": _MIXED | {"hybrid_layer_ids": [0, 1], "mamba_d_state": 8},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single architectures need beside that."""


NOT_BUILT = {
    "blt": "reads bytes with several inner models, whose tables of hashes have 500,002 rows each",
    "dots3_note": "names its layers one by one, to the 41st; its text model is `dots3_note_text`",
    "gemma3n": "its image tower needs the package timm; its text model is `gemma3n_text`",
    "gemma4_assistant": "drafts for another model, whose keys all its layers read",
    "gemma4_unified_assistant": "drafts for another model, whose keys all its layers read",
    "musicgen": "its registered class does not take the configuration that is registered with it",
    "musicgen_melody": "as `musicgen`",
}
"""What cannot be built tiny, and why."""


def small_config(cls: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A configuration of the class with small sizes, in all that it is made of."""
    own: dict[str, Any] = {}
    default = cls()
    for name in cls.sub_configs or {}:
        part = getattr(default, name, None)
        if part is not None:
            own[name] = small_config(type(part)).to_dict()
    known = vars(default)
    for name, value in _SMALL.items():
        name = cls.attribute_map.get(name, name)
        if isinstance(known.get(name), int) and not isinstance(known[name], bool):
            own[name] = value
    if "kv_lora_rank" in known:  # all heads share what keys are made of
        own |= {"num_key_value_heads": 4, "head_dim": own["qk_rope_head_dim"]}
    return cls(**own | _MORE.get(cls.model_type, {}))


def tiny_net(kind: str) -> PreTrainedModel:
    """A model of the architecture with random weights, the same at every call."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(small_config(CONFIG_MAPPING[kind])).eval()
