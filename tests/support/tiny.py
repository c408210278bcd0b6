"""Tiny random models, documents of random tokens, and a method that reads them."""

from __future__ import annotations

import numpy as np
import torch

from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.language_model import LanguageModel
from tta_bench.validity.models import FAMILIES, PREFIX, VOCAB, random_net

__all__ = [
    "FAMILIES",
    "PREFIX",
    "VOCAB",
    "make_method",
    "random_document",
    "run_method",
    "tiny_model",
]


def tiny_model(family: str = "llama", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """As the probes use it, but with a layer between the first and the last, and no tokenizer."""
    return LanguageModel(random_net(family, layers=3).to(dtype), None, f"random-{family}")


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
