"""A model whose parts lie on several devices, by accelerate: where they are, where it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tta_bench.errors import UsageError
from tta_bench.extras import require

if TYPE_CHECKING:
    from tta_bench.model.loading import Loading


def check_device_map(loading: Loading, device: str) -> None:
    """Raises UsageError where `--device-map` cannot be done.

    Args:
        loading: how the model is loaded.
        device: as `--device` takes it.
    """
    if loading.device_map is None:
        return
    what = f"--device-map {loading.device_map}"
    if device not in ("auto", "cuda"):
        raise UsageError(f"{what} takes all GPUs there are; leave out --device {device}.")
    require("accelerate", extra="accelerate", what=what)


def reading_device(net: Any) -> torch.device:
    """Where token ids go and scores come from: the device on which the first module computes.

    Weights that are kept elsewhere, in memory of the CPU or on a disk, are brought there in turn.
    """
    embeddings = getattr(net, "get_input_embeddings", lambda: None)()
    hook = getattr(embeddings, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):  # accelerate may have put several on a module
        device = getattr(one, "execution_device", None)
        if device is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return net.device


def spread_over(net: Any) -> list[str]:
    """Where the parts of a model lie, in order, such as `cuda:0` or `disk`.

    Empty for one that has a device as others have: one that was placed as a whole, too.
    """
    placed = (getattr(net, "hf_device_map", None) or {}).values()
    found = list(dict.fromkeys(f"cuda:{at}" if isinstance(at, int) else str(at) for at in placed))
    return found if len(found) > 1 or found == ["disk"] else []
