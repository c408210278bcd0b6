"""`--deterministic`: restricts PyTorch to algorithms that give the same bits every time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_WORKSPACE, _FIXED = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


@contextmanager
def deterministic_algorithms(wanted: bool = True) -> Iterator[None]:
    """While inside, an operation without a deterministic form raises; then all is put back.

    Enter it before anything touches a GPU: cuBLAS reads its workspace setting only once. A setting
    that the user made stays as it is.
    """
    import torch

    if not wanted:
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    ours = _WORKSPACE not in os.environ
    os.environ.setdefault(_WORKSPACE, _FIXED)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        if ours:
            os.environ.pop(_WORKSPACE, None)
