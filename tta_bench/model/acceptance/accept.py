"""The trial of a model that was loaded: all properties, one after another, in under a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from tta_bench.model.acceptance.as_loaded import as_loaded
from tta_bench.model.acceptance.carrying import carried_keys
from tta_bench.model.acceptance.order import causality, finite, neighbours, of_width
from tta_bench.model.acceptance.readings import LENGTH, random_ids, read
from tta_bench.model.acceptance.vocabulary import unknown_ids
from tta_bench.model.acceptance.weights import weights_complete, weights_finite
from tta_bench.model.findings import USE, Acceptance, Finding

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel

_LEAST = 12
"""Positions that a model needs to be tried at all."""


def accept(model: LanguageModel, loading: Mapping[str, Any] | None = None) -> None:
    """Tries a model and keeps the findings as `model.acceptance`; refuses nothing by itself.

    Args:
        model: the model, as methods will see it.
        loading: what `from_pretrained` tells with `output_loading_info`; None for random weights.
    """
    model.acceptance = Acceptance()
    for finding in _findings(model, loading):
        model.acceptance = Acceptance((*model.acceptance.findings, finding))
        if not model.acceptance.usable:
            return  # what follows would only say the same in other words


def _findings(model: LanguageModel, loading: Mapping[str, Any] | None) -> Iterator[Finding]:
    yield from as_loaded(model)
    if loading is not None:
        yield weights_complete(loading)
    yield weights_finite(model.net)
    yield from unknown_ids(model)
    length = min(LENGTH, model.max_positions or LENGTH)
    if length < _LEAST:
        yield Finding("reading", "not tried", f"has {length} positions, too few to be tried")
        return
    try:
        yield from _orders(model, length)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # code of others: there is no end to what it raises
        detail = f"does not read {length} tokens ({_described(error)})"
        yield Finding("reading", "failed", detail, (USE,), "choose another model")
        return
    yield carried_keys(model)


def _orders(model: LanguageModel, length: int) -> Iterator[Finding]:
    ids = random_ids(model, 2, length)
    alone = read(model, ids[:1], [length], length)
    yield finite(model, alone)
    yield of_width(model) or neighbours(model, ids, alone)
    yield causality(model, ids, alone)


def _described(error: Exception) -> str:
    """An error of another's code in a few words."""
    first = str(error).strip().split("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
