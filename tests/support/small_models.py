"""Small models in folders, with what people have beside them: adapters, a tokenizer elsewhere."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tta_bench.validity.models import PREFIX, VOCAB, byte_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. "


def base_folder(folder: Path, seed: int = 0, tokenizer: bool = True, **changes: Any) -> Path:
    """A Llama of random weights in a folder; its widths are those that kernels of 4 bits take."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": PREFIX,
        "eos_token_id": PREFIX + 1,
    }
    net = AutoModelForCausalLM.from_config(LlamaConfig(**options | changes))
    with torch.no_grad():
        for value in net.parameters():
            if value.dim() == 2:
                value.mul_(3.0)
    net.save_pretrained(folder)
    if tokenizer:
        byte_tokenizer().save_pretrained(folder)
    return folder


def adapter_folder(folder: Path, base: Path, named: str | None = None, **options: Any) -> Path:
    """An adapter made with PEFT on a base, and saved as PEFT saves it.

    Args:
        folder: where it goes.
        base: the folder of its base.
        named: what the adapter calls its base; None: its path.
        options: of `LoraConfig`.
    """
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        tuned = get_peft_model(net, LoraConfig(**settings | options, task_type="CAUSAL_LM"))
        torch.manual_seed(1)
        with torch.no_grad():
            for name, value in tuned.named_parameters():
                if "lora_B" in name:  # zeros, until it is trained
                    value.normal_(std=0.05)
        tuned.save_pretrained(folder)
    change_config(folder, base_model_name_or_path=named or str(base))
    return folder


def change_config(adapter: Path, **changes: Any) -> None:
    """Changes what an adapter says of itself."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
