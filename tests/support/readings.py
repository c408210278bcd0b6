"""Our readings of a model beside the simplest loop over plain forward passes of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from tiny import make_method
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from tta_bench.documents import TokenizedDocument
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import ModelError
from tta_bench.model.acceptance.accept import accept
from tta_bench.model.findings import CACHE, USE
from tta_bench.model.language_model import LanguageModel

NATS = 1e-5
"""Largest difference of a token's loss that is accepted."""
PREFIX = 1
LR = 0.02
Losses = dict[str, np.ndarray]
Spans = Callable[[int], Iterator[tuple[int, int, int]]]


def documents(vocab_size: int) -> list[TokenizedDocument]:
    """Three documents of unequal lengths, so that lanes end, wait and start anew."""
    random = np.random.default_rng(0)
    lengths = {"long": 41, "short": 19, "middle": 28}
    return [
        TokenizedDocument(key, random.integers(3, vocab_size, n).astype(np.int32), n, n, key)
        for key, n in lengths.items()
    ]


def ours(model: LanguageModel, protocol: Protocol, lanes: int, adapts: bool = False) -> Losses:
    """The losses of every token as the bench reads them; the method is `none` unless it adapts."""
    if adapts:
        method = make_method(model, "dynamic-eval", lanes, optimizer="sgd", lr=LR)
    else:
        method = make_method(model, "none", lanes)
    results = Engine(method, protocol, PREFIX, debug=True).run(documents(model.readable_ids))
    return {result.document.key: result.nll for result in results if result.nll is not None}


def plain(net: PreTrainedModel, ids_below: int, spans: Spans) -> Losses:
    """The same from windows (start, stop, scored) of each document, read whole, one at a time."""
    found = {}
    for document in documents(ids_below):
        ids = torch.tensor([PREFIX, *document.token_ids.tolist()])
        with torch.no_grad():
            parts = [loss_of(net, ids, *span) for span in spans(len(ids))]
        found[document.key] = torch.cat(parts).numpy()
    return found


def plain_descent(net: PreTrainedModel, ids_below: int, chunk: int) -> Losses:
    """Dynamic evaluation as anybody would write it: SGD on the mean loss of each chunk."""
    found = {}
    for document in documents(ids_below):
        own = copy.deepcopy(net).eval().requires_grad_(True)
        optimizer = torch.optim.SGD(own.parameters(), lr=LR)
        ids = torch.tensor([PREFIX, *document.token_ids.tolist()])
        parts = []
        for start, stop, scored in chunks(len(ids), chunk):
            losses = loss_of(own, ids, start, stop, scored)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            parts.append(losses.detach())
        found[document.key] = torch.cat(parts).numpy()
    return found


def loss_of(net: PreTrainedModel, ids: Tensor, start: int, stop: int, scored: int) -> Tensor:
    """Losses [scored] of the last predictions of a window, in float32."""
    logits = net(input_ids=ids[None, start:stop], use_cache=False).logits[0, -scored:].float()
    return F.cross_entropy(logits, ids[stop - scored + 1 : stop + 1], reduction="none")


def chunks(length: int, chunk: int, context: int = 0) -> Iterator[tuple[int, int, int]]:
    """Disjoint chunks, each behind so many tokens that are read again."""
    for first in range(0, length - 1, chunk):
        stop = min(first + chunk, length - 1)
        yield max(0, first - context), stop, stop - first


def whole(length: int) -> Iterator[tuple[int, int, int]]:
    """The document as one window."""
    yield 0, length - 1, length - 1


def last_full(length: int, window: int) -> Iterator[tuple[int, int, int]]:
    """Disjoint windows, the last of which is as long as the others (lm-evaluation-harness)."""
    for first in range(0, length - 1, window):
        stop = min(first + window, length - 1)
        yield max(0, stop - window), stop, stop - first


def outcomes(net: PreTrainedModel) -> dict[str, str]:
    """The cells of the table: whether each reading is right, or why it is refused.

    Raises:
        AssertionError: a reading is wrong.
    """
    model = LanguageModel(copy.deepcopy(net), None, "tiny")
    accept(model)
    if (finding := model.acceptance.forbids(USE)) is not None:
        return dict.fromkeys(COLUMNS, refused(finding.detail))
    ids = model.readable_ids
    cells = dict.fromkeys(COLUMNS, "yes")
    for name, (protocol, spans) in PROTOCOLS.items():
        finding = model.acceptance.forbids(CACHE)
        if protocol.context_mode == "cache" and finding is not None:
            cells[name] = refused(finding.detail)
            continue
        assert_same(name, ours(model, protocol, 2), plain(net, ids, spans))
    try:
        model.require_gradients()
    except ModelError as error:
        return cells | {"lanes": refused(str(error))}
    expected = plain_descent(net, ids, 16)
    for lanes in (1, 3):
        found = ours(model, Protocol(chunk=16), lanes, adapts=True)
        assert_same(f"dynamic evaluation on {lanes} lanes", found, expected)
    names = [name for name, _ in model.net.named_parameters()]
    if model.reads_alone or model.one_by_one(names) is not None:
        cells["lanes"] = "yes, one by one"
    return cells


def refused(detail: str) -> str:
    """A cell for what is refused; the numbers in brackets depend on the machine."""
    short = next((short for words, short in SHORT.items() if words in detail), None)
    assert short is not None, detail
    return f"refused: {short}"


def assert_same(what: str, found: Losses, expected: Losses) -> None:
    assert found.keys() == expected.keys(), what
    for key, losses in expected.items():
        np.testing.assert_allclose(found[key], losses, rtol=0, atol=NATS, err_msg=what)


PROTOCOLS: dict[str, tuple[Protocol, Spans]] = {
    "plain": (Protocol(chunk=16), partial(chunks, chunk=16)),
    "recompute": (
        Protocol(chunk=12, context=20, context_mode="recompute"),
        partial(chunks, chunk=12, context=20),
    ),
    "cache": (Protocol(chunk=12, context=64, context_mode="cache"), whole),
    "lm-eval": (Protocol("lm-eval", window=18), partial(last_full, window=18)),
}
"""By column of the table: how documents are read, and the windows that give the same losses."""
COLUMNS = (*PROTOCOLS, "lanes")
SHORT = {
    "gives no gradients": "no gradients",
    "is no causal language model": "not causal",
    "cannot carry keys and values": "no keys to carry",
    "with carried keys otherwise than the whole": "parts differ",
}
"""What a table says for the words of a refusal."""
