"""Whether a model that carries keys and values reads parts as it reads the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tta_bench.model.acceptance.readings import LENGTH, random_ids, read
from tta_bench.model.cache import LaneCache
from tta_bench.model.findings import CACHE, Finding
from tta_bench.model.rotary import depends_on_width
from tta_bench.model.rounding import apart

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel

_LAST = 4
"""Predictions that are compared: those of the last part, which see the carried keys."""

_AFFORDED = {"cpu": 3e10}
_AFFORDED_ELSEWHERE = 3e13
"""FLOPs that reading farther than a model's sliding window may take: about half a second."""

_REACHES = ("sliding_window", "attention_chunk_size", "window_size")

_NAME = "carried keys"
_ADVICE = "--context-mode cache is not possible with it, --context-mode recompute is"


@torch.inference_mode()
def carried_keys(model: LanguageModel) -> Finding:
    """Reads in three parts with carried keys, and compares the last with a reading of the whole.

    One lane reads on, and one is reset after the first part, as when its document ends.
    """
    refused = nothing_to_carry(model)
    if refused is not None:
        return refused
    length, note = _length(model)
    first = length // 2
    ids = random_ids(model, 2, length)
    try:
        whole = read(model, ids[:1], [length], _LAST)
        fresh = read(model, ids[1:, first:], [length - first], _LAST)
        past = LaneCache(2, length, model.device)
        read(model, ids[:, :first], [first] * 2, 1, past)
        past.reset(1)
        middle = length - first - _LAST
        read(model, ids[:, first:-_LAST], [middle] * 2, 1, past)
        parts = read(model, ids[:, -_LAST:], [_LAST] * 2, _LAST, past)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # code of others: there is no end to what it raises
        return _failed("cannot carry keys and values from chunk to chunk")
    distances = (apart(parts[:1], whole, model.dtype), apart(parts[1:], fresh, model.dtype))
    distance = max((found for found in distances if found is not None), default=None)
    if distance is not None:
        return _failed(
            "reads parts with carried keys otherwise than the whole "
            f"(by {distance:.1%} of the spread)"
        )
    return Finding(_NAME, "ok", f"reads {length} tokens in parts as it reads the whole{note}")


def nothing_to_carry(model: LanguageModel) -> Finding | None:
    """What forbids carried keys by the model's design alone, which needs no weights; else None."""
    if depends_on_width(model.config):
        return _failed(
            "cannot carry keys and values from chunk to chunk, since its rotary factors change "
            "with the length of what is read"
        )
    # Transformers sets it for models with a recurrent state, which no keys and values stand for.
    if getattr(model.net, "_is_stateful", False):
        return _failed("cannot carry keys and values from chunk to chunk")
    return None


def _failed(detail: str) -> Finding:
    return Finding(_NAME, "failed", detail, (CACHE,), _ADVICE)


def _length(model: LanguageModel) -> tuple[int, str]:
    """How many tokens to read, and what to say if a sliding window is longer than that."""
    most = model.max_positions or 2**31
    reach = max((_reach(model.config, name) for name in _REACHES), default=0)
    wanted = reach + LENGTH // 2
    cost = 2 * sum(parameter.numel() for parameter in model.net.parameters()) * 4 * wanted
    afforded = _AFFORDED.get(model.device.type, _AFFORDED_ELSEWHERE)
    if wanted <= LENGTH or (cost <= afforded and wanted <= most):
        return min(max(wanted, LENGTH), most), ""
    return min(LENGTH, most), f", which is within its attention window of {reach}"


def _reach(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
