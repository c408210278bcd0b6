"""Whether a lane's losses depend on its own past alone: on no neighbour, no padding, no future."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tta_bench.model.acceptance.readings import read
from tta_bench.model.acceptance.weights import wider
from tta_bench.model.findings import PADDING, USE, Finding
from tta_bench.model.rotary import depends_on_width
from tta_bench.model.rounding import apart

if TYPE_CHECKING:
    from torch import Tensor

    from tta_bench.model.language_model import LanguageModel

LANES = "lanes apart"
ALONE = "its lanes are read one after another, without padding and uncompiled"


def finite(model: LanguageModel, alone: Tensor) -> Finding:
    """Whether a reading [1, n, V] of finite weights gives probabilities."""
    name = "finite losses"
    if not bool(alone.isnan().any()):
        return Finding(name, "ok", "gives probabilities for random tokens")
    kind = str(model.dtype).removeprefix("torch.")
    detail = f"gives losses that are not finite in {kind}, from weights that are"
    return Finding(name, "failed", detail, (USE,), wider(kind))


def of_width(model: LanguageModel) -> Finding | None:
    """What is known of a model whose positions depend on the width of a window; else None."""
    if not depends_on_width(model.config):
        return None
    remark = f"rotary factors of the model depend on the width of a window: {ALONE}."
    return Finding(
        LANES,
        "failed",
        "has rotary factors that depend on how far a window reaches",
        (PADDING,),
        "read its lanes one by one",
        remark,
    )


def neighbours(model: LanguageModel, ids: Tensor, alone: Tensor) -> Finding:
    """Whether a lane reads the same beside others of other lengths as alone.

    Args:
        model: the model.
        ids: [2, n] token ids.
        alone: [1, n, V] what the first row gives when nothing is beside it.
    """
    name = LANES
    length = ids.shape[1]
    short = length // 2
    beside = read(model, ids.flip(0).repeat(2, 1)[:3], [length, length, short], length)
    padded = read(model, ids[1:, :short], [short], short)
    distances = (
        apart(beside[1:2], alone, model.dtype),
        apart(beside[2:, :short], padded, model.dtype),
    )
    distance = max((found for found in distances if found is not None), default=None)
    if distance is None:
        return Finding(name, "ok", "reads a lane beside others as it reads it alone")
    return Finding(
        name,
        "failed",
        f"reads a lane otherwise beside others than alone (by {distance:.1%} of the spread)",
        (PADDING,),
        "read its lanes one by one",
        f"the model reads a lane otherwise beside others than alone: {ALONE}.",
    )


def causality(model: LanguageModel, ids: Tensor, alone: Tensor) -> Finding:
    """Whether other tokens later leave what is predicted earlier alone.

    Args:
        model: the model.
        ids: [2, n] token ids.
        alone: [1, n, V] what the first row gives.
    """
    name = "causality"
    length = ids.shape[1]
    kept = length // 2
    other = torch.cat([ids[:1, :kept], ids[1:, kept:]], dim=1)
    found = read(model, other, [length], length)
    distance = apart(found[:, :kept], alone[:, :kept], model.dtype)
    if distance is None:
        return Finding(name, "ok", "predicts the same, whatever comes later")
    return Finding(
        name,
        "failed",
        "is no causal language model: later tokens change earlier predictions "
        f"(by {distance:.1%} of the spread)",
        (USE,),
        "choose a decoder, or look for is_causal, is_decoder or bidirectional attention in its "
        "config.json",
    )
