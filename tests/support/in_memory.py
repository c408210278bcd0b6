"""A small model of transformers with its tokenizer, as a notebook has them in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_tokenizers import byte_level
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = {
    "fox": "The fox jumps over the lazy dog, and the dog sleeps on. " * 4,
    "work": "All work and no play makes a dull day; no play, all work. " * 3,
}


def small_net() -> LlamaForCausalLM:
    """A random Llama of two layers, the same at every call."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return LlamaForCausalLM(config)


def small_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


def saved(folder: Path) -> Path:
    """The same model and tokenizer as a folder that `--model` takes."""
    small_net().save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder
