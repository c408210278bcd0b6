"""Whether all weights of a model are there, in its files and as numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tta_bench.model.findings import USE, Finding

_NAMED = 3
"""How many names a sentence lists before it counts the others."""


def weights_complete(loading: Mapping[str, Any]) -> Finding:
    """Whether the files held a value for every weight, and a weight for every value.

    Transformers draws what is missing at random. Weights that are tied to others, and buffers that
    are computed, are not missing.

    Args:
        loading: what `from_pretrained` tells with `output_loading_info`.
    """
    name = "all weights"
    mismatched = [
        f"{key} is {_shape(found)} there and {_shape(wanted)} here"
        for key, found, wanted in sorted(loading.get("mismatched_keys") or ())
    ]
    missing, unexpected = (
        sorted(loading.get(kind) or ()) for kind in ("missing_keys", "unexpected_keys")
    )
    advice = "get files that belong to its config.json"
    if mismatched:
        detail = f"has weights of other shapes in its files ({listed(mismatched)})"
        return Finding(name, "failed", detail, (USE,), advice)
    if missing:
        detail = f"lacks weights in its files ({listed(missing)})"
        return Finding(name, "failed", detail, (USE,), advice)
    if unexpected:
        detail = f"leaves out what its files hold beside its weights ({listed(unexpected)})"
        return Finding(name, "ok", detail, remark=f"the model {detail}.")
    return Finding(name, "ok", "has a value for each weight, and no other values")


@torch.no_grad()
def weights_finite(net: nn.Module) -> Finding:
    """Whether every weight is a finite number in the dtype in use."""
    name = "finite weights"
    spoiled = [key for key, value in net.named_parameters() if not _finite(value)]
    dtypes = {key: str(net.get_parameter(key).dtype).removeprefix("torch.") for key in spoiled}
    if not spoiled:
        return Finding(name, "ok", "has finite weights only")
    kind = dtypes[spoiled[0]]
    detail = f"has weights that are not finite in {kind} ({listed(spoiled)})"
    return Finding(name, "failed", detail, (USE,), wider(kind))


def wider(dtype: str) -> str:
    """What to do where numbers of this dtype are not finite."""
    if dtype == "float16":
        return "its range may be too narrow: use --dtype bfloat16 or float32"
    return "get files that are not damaged"


def listed(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(list(names)[:_NAMED])
    return first if len(names) <= _NAMED else f"{first} and {len(names) - _NAMED} more"


def _finite(value: Tensor) -> bool:
    """Whether all entries are finite; the extremes of a tensor with NaN in it are NaN."""
    if not value.is_floating_point() or value.numel() == 0 or value.is_meta:
        return True
    return bool(torch.stack(torch.aminmax(value.detach())).isfinite().all())


def _shape(shape: Collection[int]) -> str:
    return "x".join(str(size) for size in shape)
