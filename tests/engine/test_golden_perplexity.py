"""Other tools' protocols reproduce what those tools print, on a real model in float32.

The model is SmolLM2-135M, which `make test` fetches before the tests start.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import golden
from slow import slow

from tta_bench import LanguageModel, Scores, Window
from tta_bench.contract.registry import load
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.model.prefix import prefix_id
from tta_bench.model.scores import Logits

NATS = 3.5e-5
"""Largest difference accepted, in nats a token.

PyTorch normalises logits in float32 by as many running sums as a register of the CPU has places,
and the smallest of the 49,152 terms are lost. A token's loss comes out too low: by 0.8e-5 nats with
the sixteen places of AVX-512, which the references hold, by 1.6e-5 with eight, by 3.2e-5 with four.
A window that is one token shorter moves a long document by a hundred times as much.
"""


class Remembering(load("none")):  # type: ignore[misc]
    """The model alone, which reads a window once, whichever protocols and parts want it."""

    read: dict[bytes, torch.Tensor]

    def score(self, window: Window) -> Scores:
        assert window.whole
        assert window.past is None
        ids = window.input_ids
        if (key := ids.numpy().tobytes()) not in self.read:
            everything = Window(ids, window.lengths, window.lengths, ids.shape[1])
            self.read[key] = self.model.hidden(everything)
        hidden = window.chunk(self.read[key])
        return Logits(hidden, self.model.unembed, self.model.vocab_size)


def cases(tool: str) -> list[Any]:
    """Every case of a tool in the reference files: the file, the sizes in its name, its numbers."""
    found: list[Any] = []
    for parameter in golden("perplexity", "reference*.json"):
        (file,) = parameter.values
        if file is None:
            found.append(pytest.param(None, (), {}, id=parameter.id, marks=parameter.marks))
            continue
        for name, entry in json.loads(file.read_text(encoding="utf-8")).items():
            if not name.startswith(tool):
                continue
            for case, numbers in entry.items():
                sizes = tuple(int(size) for size in re.findall(r"\d+", case))
                found.append(pytest.param(file, sizes, numbers, id=f"{file.stem}-{case}"))
    quickest = min(found, key=lambda parameter: sum(parameter.values[1]))
    return [one if one is quickest else _slow(one) for one in found]


def _slow(case: Any) -> Any:
    return pytest.param(*case.values, id=case.id, marks=[*case.marks, slow])


@pytest.fixture(scope="module")
def smollm2() -> Remembering:
    method = Remembering(load_model("smollm2-135m", "float32", "cpu"), Remembering.Params(), 1)
    method.read = {}
    return method


def losses(method: Remembering, file: Path, protocol: Protocol, concat: bool = False) -> Any:
    """Losses by document of the token ids beside the file, or of all of them as one document."""
    ids = json.loads((file.parent / "token_ids.json").read_text(encoding="utf-8"))
    if concat:
        ids = {"concat": [token for document in ids.values() for token in document]}
    documents = [TokenizedDocument(k, np.array(v, np.int32), 0, 0, k) for k, v in ids.items()]
    model: LanguageModel = method.model
    prefix = prefix_id("auto", model.tokenizer, model.vocab_size)
    assert prefix == 1, "the prefix token of lm-eval"
    engine = Engine(method, protocol, prefix, debug=True)
    return {result.document.key: result.nll for result in engine.run(documents)}


def agrees(losses: np.ndarray, perplexity: float, count: int) -> None:
    assert len(losses) == count
    assert losses.mean(dtype=np.float64) == pytest.approx(math.log(perplexity), abs=NATS)


@pytest.mark.parametrize(("file", "sizes", "numbers"), cases("lm-eval"))
def test_lm_eval(
    smollm2: Remembering, file: Path, sizes: tuple[int], numbers: dict[str, Any]
) -> None:
    found = losses(smollm2, file, Protocol("lm-eval", window=sizes[0]))
    assert set(found) == set(numbers["docs"])
    for key, document in numbers["docs"].items():
        assert len(found[key]) == document["tokens"]
        mean = found[key].mean(dtype=np.float64)
        assert mean == pytest.approx(-document["ll"] / document["tokens"], abs=NATS)
    agrees(np.concatenate(list(found.values())), numbers["token_ppl"], numbers["tokens"])


@pytest.mark.parametrize(("file", "sizes", "numbers"), cases("llama-perplexity"))
def test_llama_cpp(
    smollm2: Remembering, file: Path, sizes: tuple[int], numbers: dict[str, Any]
) -> None:
    found = losses(smollm2, file, Protocol("llama.cpp", window=sizes[0]), concat=True)
    agrees(found["concat"], numbers["ppl"], numbers["scored"])


@pytest.mark.parametrize(("file", "sizes", "numbers"), cases("Hugging Face guide"))
def test_the_guide_of_hugging_face(
    smollm2: Remembering, file: Path, sizes: tuple[int, int], numbers: dict[str, Any]
) -> None:
    window, stride = sizes
    protocol = Protocol("hf-guide", window=window, stride=stride)
    found = losses(smollm2, file, protocol, concat=True)
    # Where windows overlap, the guide's own figure weighs some tokens twice.
    agrees(found["concat"], numbers["true_ppl"], numbers.get("N_true", numbers.get("N")))


@pytest.mark.parametrize(("file", "sizes", "numbers"), cases("dynamic-eval"))
def test_krause(
    smollm2: Remembering, file: Path, sizes: tuple[int], numbers: dict[str, Any]
) -> None:
    found = losses(smollm2, file, Protocol("krause", window=sizes[0]), concat=True)
    agrees(found["concat"], numbers["ppl"], numbers["n"])
