"""Peak memory of a section of code; None where it cannot be known, never a guess."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterable
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
        allocated_bytes: memory of tensors in PyTorch's GPU allocator; comparable between runs.
        reserved_bytes: memory that the allocator has reserved from the driver, caches included.
        process_bytes: on a GPU, the memory of the process at the end according to the driver,
            including context and libraries (reserved memory is not released, so the end is the
            peak); on a CPU, the high-water mark of resident memory.
    """

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None


class PeakMemory:
    """Measures the peaks between `start` and `stop`; warm up first, so that weights are loaded.

    Args:
        device: the device.
        others: further places that hold parts of the model; the peaks of GPUs among them are added.
    """

    def __init__(self, device: torch.device | str, others: Iterable[str] = ()):
        self.device = torch.device(device)
        self._gpus = [self.device] if self.device.type == "cuda" else []
        for place in others:
            if place.startswith("cuda:") and torch.device(place).index != (self.device.index or 0):
                self._gpus.append(torch.device(place))
        self._resettable = False

    def start(self) -> None:
        """Resets the peaks and releases memory that earlier work has left in the allocators."""
        gc.collect()
        if self.device.type == "cuda":
            for gpu in self._gpus:
                torch.cuda.synchronize(gpu)
            torch.cuda.empty_cache()
            for gpu in self._gpus:
                torch.cuda.reset_peak_memory_stats(gpu)
        elif self.device.type == "cpu":
            _trim_heap()
            self._resettable = _reset_high_water()

    def stop(self) -> MemoryPeak:
        """The peaks since `start`; may be called several times."""
        if self.device.type == "cuda":
            for gpu in self._gpus:
                torch.cuda.synchronize(gpu)
            processes = [_gpu_processes(gpu).get(os.getpid()) for gpu in self._gpus]
            known = [used for used in processes if used is not None]
            return MemoryPeak(
                allocated_bytes=sum(map(torch.cuda.max_memory_allocated, self._gpus)),
                reserved_bytes=sum(map(torch.cuda.max_memory_reserved, self._gpus)),
                process_bytes=sum(known) if len(known) == len(processes) else None,
            )
        if self._resettable:
            return MemoryPeak(process_bytes=_status_bytes("VmHWM"))
        return MemoryPeak()


def gpu_is_shared(device: torch.device | str) -> bool | None:
    """Whether another process uses the GPU; None if that cannot be known.

    If the driver does not list this process, as in some containers, its list is incomplete.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return None
    processes = _gpu_processes(device)
    return len(processes) > 1 if os.getpid() in processes else None


def _status_bytes(field: str) -> int | None:
    """A field of /proc/self/status in bytes; unlike `ru_maxrss`, it is not inherited."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _trim_heap() -> None:
    """Releases freed memory: glibc keeps tens of MiB, which would hide part of the next peak."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water() -> bool:
    """Resets the high-water mark to the current size; False if the system cannot."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    peak, now = _status_bytes("VmHWM"), _status_bytes("VmRSS")
    # Some sandboxes accept the write without effect; the kernel's counters lag by a few pages.
    return peak is not None and now is not None and peak - now < 2**24


def _gpu_processes(device: torch.device) -> dict[int, int | None]:
    """Bytes on the GPU by process id, according to the driver; empty if it does not say."""
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
    """The driver's id of a GPU; its index differs from PyTorch's under CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
