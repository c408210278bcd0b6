"""What is fixed for every worker before it starts: its threads, and one order of hashes."""

from __future__ import annotations

import os

from tta_bench.format import plural
from tta_bench.model.device import pick_device

_THREADS = "OMP_NUM_THREADS"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of(device: str, part: int) -> int:
    """Threads of PyTorch in each worker.

    On CPUs their number moves the last bits, so that it may not follow from the number of workers:
    it is one, or what OMP_NUM_THREADS says.

    Args:
        device: as `--device` takes it.
        part: a worker's part of the cores, which it gets where it computes on a GPU.
    """
    said = os.environ.get(_THREADS, "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    return 1 if pick_device(device).type == "cpu" else max(1, part)


def crowding(workers: int, threads: int) -> list[str]:
    """A note where so many workers of so many threads have less than a core for each thread."""
    if workers * threads <= cores():
        return []
    return [
        f"{plural(workers, 'worker')} of {plural(threads, 'thread')} share "
        f"{plural(cores(), 'core')}: times are longer than each would take alone."
    ]


def fixed_environment(threads: int) -> dict[str, str]:
    """The variables that must be there before a worker imports anything."""
    found = {_THREADS: str(threads), "MKL_NUM_THREADS": str(threads)}
    found["PYTHONHASHSEED"] = os.environ.get("PYTHONHASHSEED", "0")
    return found
