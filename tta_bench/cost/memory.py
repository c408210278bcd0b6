"""Peak memory of a stretch of work. What cannot be known is None, never a guess."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class MemoryPeak:
    """Peaks in bytes; None where unknown.

    Attributes:
        allocated_bytes: tensors, through PyTorch's GPU allocator. Comparable between runs.
        reserved_bytes: what that allocator took from the driver, caches included.
        process_bytes: on a GPU what the driver says the process holds at the end (context and
            libraries included; reserved memory is not given back, so the end is the peak); on a
            CPU the high-water mark of resident memory.
    """

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None


class PeakMemory:
    """Measures between `start` and `stop`. Warm up first: weights are mapped in on first use."""

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self._resettable = False

    def start(self) -> None:
        """Forgets the peaks so far, and gives back what earlier work left in the allocators."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu":
            _trim_heap()
            self._resettable = _reset_high_water()

    def stop(self) -> MemoryPeak:
        """The peaks since `start`; it may be called again."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return MemoryPeak(
                allocated_bytes=torch.cuda.max_memory_allocated(self.device),
                reserved_bytes=torch.cuda.max_memory_reserved(self.device),
                process_bytes=_gpu_processes(self.device).get(os.getpid()),
            )
        if self._resettable:
            return MemoryPeak(process_bytes=_status_bytes("VmHWM"))
        return MemoryPeak()


def gpu_is_shared(device: torch.device | str) -> bool | None:
    """Whether another process computes on the GPU too; None if that cannot be known.

    A driver that does not list this very process (containers) cannot be trusted about others.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return None
    processes = _gpu_processes(device)
    return len(processes) > 1 if os.getpid() in processes else None


def _status_bytes(field: str) -> int | None:
    """A field of /proc/self/status, which gives kB; unlike `ru_maxrss` it is not inherited."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _trim_heap() -> None:
    """glibc keeps freed memory, tens of MiB of it, which would hide as much of the next peak."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water() -> bool:
    """Lowers the high-water mark to the present size; False where the system cannot."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    peak, now = _status_bytes("VmHWM"), _status_bytes("VmRSS")
    # Some sandboxes accept the write and do nothing; the kernel's own counters lag by a few pages.
    return peak is not None and now is not None and peak - now < 2**24


def _gpu_processes(device: torch.device) -> dict[int, int | None]:
    """Bytes held on the GPU by process id, as the driver says; empty if it does not."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(device))
        found: list[Any] = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return {process.pid: process.usedGpuMemory for process in found}
    except (pynvml.NVMLError, AttributeError):
        return {}
    finally:
        pynvml.nvmlShutdown()


def _uuid(device: torch.device) -> str:
    """The driver's name of a GPU: its index is not PyTorch's under CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
