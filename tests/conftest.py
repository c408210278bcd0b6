"""Shared fixtures: tiny random models of every family, and documents of random tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.language_model import LanguageModel

torch.set_num_threads(1)  # tiny models: a second thread costs more than it gives

VOCAB = 97
PREFIX = 1

_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
_HEADS = _GROUPED | {"head_dim": 8}

FAMILIES = {
    "llama": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "llama-untied": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_HEADS),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt-neox": lambda: GPTNeoXConfig(**_SHAPE),
    "gemma": lambda: GemmaConfig(**_HEADS),
    "gemma2": lambda: Gemma2Config(**_HEADS, sliding_window=16, final_logit_softcapping=5.0),
    "gemma3": lambda: Gemma3TextConfig(**_HEADS, sliding_window=16),
}


def tiny_model(family: str = "llama", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A random model; its weights are scaled up so that its predictions are far from uniform."""
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(FAMILIES[family]())
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4.0)
    return LanguageModel(net.to(dtype), None, f"random-{family}")


def random_document(key: str, length: int, seed: int) -> TokenizedDocument:
    """Tokens that repeat themselves, so that there is something to learn."""
    random = np.random.default_rng(seed)
    phrase = random.integers(3, VOCAB, size=17)
    noise = random.integers(3, VOCAB, size=length)
    ids = np.where(random.random(length) < 0.7, np.resize(phrase, length), noise)
    return TokenizedDocument(key, ids.astype(np.int32), 2 * length, length, key)


def make_method(model: LanguageModel, name: str, lanes: int = 1, **params: object):
    """A fresh method by name."""
    cls = load(name)
    return cls(model, build(cls.Params, params, name), lanes)


def run_method(method, documents, protocol: Protocol | None = None) -> dict[str, np.ndarray]:
    """Per-token losses of every document, by key; fails if any document is not done."""
    engine = Engine(method, protocol or Protocol(chunk=16), PREFIX, debug=True)
    results = list(engine.run(documents))
    assert all(result.status == "done" for result in results), results
    return {result.document.key: result.nll for result in results}


@pytest.fixture(scope="session")
def llama() -> LanguageModel:
    return tiny_model("llama")


@pytest.fixture
def documents() -> list[TokenizedDocument]:
    """Five documents; one ends in mid chunk, one is shorter than a chunk."""
    lengths = [64, 50, 7, 33, 48]
    return [random_document(f"doc{i}", n, i) for i, n in enumerate(lengths)]


HOSTILE = "<script>window.planted = 1</script>"
ESCAPE = "\x1b[31m"


@pytest.fixture(scope="session")
def hostile_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group of real runs on texts of which one wants to be a script, and so does its name."""
    home = tmp_path_factory.mktemp("report")
    texts = home / "texts"
    texts.mkdir()
    for number in range(3):
        words = f"Number {number} is naïve. " + "The lazy dog sleeps, and the fox jumps. " * 30
        (texts / f"{number}.txt").write_text(words, encoding="utf-8")
    hostile = f"{HOSTILE}{ESCAPE}\u202e" + "All work and no play, says the fox. " * 30
    (texts / f"<img src=x onerror=planted=1>{ESCAPE}.txt").write_text(hostile, encoding="utf-8")
    methods = ("none", "neural-cache", "dynamic-eval:subset=mlp")
    command = ["eval", "--dataset", str(texts), "--chunk", "64", "--max-tokens", "200"]
    command += [word for method in methods for word in ("--method", method)]
    command += ["--name", "mine", "--results", str(home / "results"), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return home / "results" / "mine"
