"""What methods are probed on: tiny random models of every family, and synthetic documents."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tta_bench.documents import TokenizedDocument
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREFIX = 256
"""The token that stands before every document."""

FIRST_SPECIAL = 256
"""The first id that is not a byte; documents consist of bytes alone."""

VOCAB = 260

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,  # more than any document of a probe has tokens
    "bos_token_id": PREFIX,
    "eos_token_id": PREFIX + 1,
    "pad_token_id": PREFIX + 2,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
_HEADS = _GROUPED | {"head_dim": 8}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_head": 4,
    "n_positions": 512,
    "bos_token_id": PREFIX,
    "eos_token_id": PREFIX + 1,
}
_CAPPED: dict[str, Any] = {"sliding_window": 16, "final_logit_softcapping": 5.0}


def _configs(layers: int) -> dict[str, Callable[[], Any]]:
    import transformers as t

    shape, grouped, heads = (
        options | {"num_hidden_layers": layers} for options in (_SHAPE, _GROUPED, _HEADS)
    )
    return {
        "llama": lambda: t.LlamaConfig(**grouped, tie_word_embeddings=True),
        "llama-untied": lambda: t.LlamaConfig(**grouped, tie_word_embeddings=False),
        "qwen2": lambda: t.Qwen2Config(**grouped),
        "qwen3": lambda: t.Qwen3Config(**heads),
        "gpt2": lambda: t.GPT2Config(**_GPT2, n_layer=layers),
        "gpt-neox": lambda: t.GPTNeoXConfig(**shape),
        "gemma": lambda: t.GemmaConfig(**heads),
        "gemma2": lambda: t.Gemma2Config(**heads, **_CAPPED),
        "gemma3": lambda: t.Gemma3TextConfig(**heads, sliding_window=16),
    }


FAMILIES = (
    "llama",
    "llama-untied",
    "qwen2",
    "qwen3",
    "gpt2",
    "gpt-neox",
    "gemma",
    "gemma2",
    "gemma3",
)


def tiny_model(family: str = "llama") -> LanguageModel:
    """A random model of two layers in float32, on the CPU, the same at every call."""
    net = random_net(family, layers=2)
    return LanguageModel(net, byte_tokenizer(), f"random-{family}", random_weights=True)


@lru_cache(maxsize=1)
def built_in_model() -> LanguageModel:
    """The trained model in the package, with a vocabulary of thousands, in float32, on the CPU."""
    return load_model("builtin:tiny", "float32", "cpu")


def quiet_model() -> LanguageModel:
    """A tiny model that is next to certain of nothing: its distributions are almost uniform."""
    model = tiny_model()
    with torch.no_grad():
        model.net.get_submodule("model.norm").get_parameter("weight").mul_(1e-3)
    return model


def random_net(family: str, layers: int) -> PreTrainedModel:
    """A network of that family in float32, on the CPU, the same at every call.

    Its weights are scaled up, so that its predictions are far from uniform.
    """
    from transformers import AutoModelForCausalLM

    torch.default_generator.manual_seed(0)
    net = AutoModelForCausalLM.from_config(_configs(layers)[family]())
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4.0)
    return net.to(torch.float32)


@cache
def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer of bytes, for methods that read a text of their own before the first document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, "<s>", "</s>", "<pad>", "<unused>"]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def document(length: int, seed: int, vocabulary: int = FIRST_SPECIAL) -> TokenizedDocument:
    """`length` tokens; three in four repeat a phrase, so that there is something to learn."""
    random = np.random.default_rng(seed)
    phrase = random.integers(vocabulary, size=7)
    noise = random.integers(vocabulary, size=length)
    ids = np.where(random.random(length) < 0.75, np.resize(phrase, length), noise)
    key = f"synthetic-{seed}-{length}"
    return TokenizedDocument(key, ids.astype(np.int32), length, length, key)


def uniform_document(length: int, seed: int, vocabulary: int) -> TokenizedDocument:
    """`length` independent uniform tokens: there is nothing to learn."""
    ids = np.random.default_rng(seed).integers(vocabulary, size=length).astype(np.int32)
    return TokenizedDocument(f"uniform-{seed}", ids, length, length, f"uniform-{seed}")


def with_other_future(
    original: TokenizedDocument, start: int, seed: int = 0, vocabulary: int = FIRST_SPECIAL
) -> TokenizedDocument:
    """The document with every token from `start` on replaced by another one."""
    random = np.random.default_rng(seed)
    ids = original.token_ids.copy()
    shift = random.integers(1, vocabulary, size=len(ids) - start)
    ids[start:] = (ids[start:] + shift) % vocabulary
    return TokenizedDocument(f"{original.key}-from-{start}", ids, len(ids), len(ids), "other")
