"""What an exception means for a run: it ran out of memory, or the method is in error."""

from __future__ import annotations

import torch

from tta_bench.errors import BenchError

_NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What a RuntimeError says when it means that memory ran out."""


def outcome_of(error: BaseException) -> tuple[str, str]:
    """The status (`oom` or `error`) and the reason of whatever a method raised."""
    reason = str(error).split("\n")[0]
    if not isinstance(error, BenchError):
        reason = f"{type(error).__name__}: {reason}"
    return "oom" if ran_out_of_memory(error) else "error", reason


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory, of the device or of the host, did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
