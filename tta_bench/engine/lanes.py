"""How many lanes a method gets: as many as asked for, or as many as fit into a GPU's memory."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from typing import Protocol as Interface

import torch

from tta_bench.engine.outcome import ran_out_of_memory
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError

MOST_LANES = 64
"""The most lanes that are chosen. Fewer keep a GPU busy, so that more add no speed; and the more
there are, the more of them stand idle when documents end at different times."""

SHARE = 0.9
"""The part of the free memory that is filled: allocators lose some between their blocks."""

MOST_STEPS = 16
"""The most steps that are taken until the peak no longer rises."""


class Meter(Interface):
    """Measures the bytes in use on a device."""

    def start(self) -> None:
        """Frees what nobody holds and forgets the peak."""

    def peak(self) -> int:
        """The most bytes that were allocated at once since `start`."""

    def held(self) -> int:
        """Bytes that are allocated now, garbage not included."""

    def free(self) -> int:
        """Bytes that could still be allocated."""


class CudaMeter:
    """Reads PyTorch's allocator on a GPU."""

    def __init__(self, device: torch.device):
        self.device = device

    def start(self) -> None:
        give_back(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    def held(self) -> int:
        give_back(self.device)
        return torch.cuda.memory_allocated(self.device)

    def free(self) -> int:
        give_back(self.device)
        inside = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + inside


def give_back(device: torch.device) -> None:
    """Frees what nobody holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def asked_lanes(
    wanted: str, protocol: Protocol, device: torch.device, documents: int
) -> int | None:
    """The number of lanes that `--lanes` asks for; None if each method gets as many as fit.

    Raises:
        UsageError: it is not a number, or does not go with the protocol.
    """
    if wanted != "auto" and not re.fullmatch("[1-9][0-9]{0,8}", wanted):
        raise UsageError(f"--lanes must be auto or a number from 1, not '{wanted}'.")
    if protocol.reset == "never":
        if wanted not in ("auto", "1"):
            raise UsageError("--reset never reads documents one after another: use --lanes 1.")
        return 1
    if wanted == "auto":
        return None if device.type == "cuda" else 1  # a CPU is busy with one
    return min(int(wanted), documents)


def lanes_that_fit(free: int, one: int, two: int, documents: int) -> int:
    """The largest number of lanes whose bytes fit; at least 1.

    Args:
        free: bytes free beside the model.
        one: bytes that the method needs with one lane, beside the model.
        two: the same with two lanes.
        documents: the number of documents; more lanes than that have nothing to read.
    """
    most = max(1, min(documents, MOST_LANES))
    per_lane = two - one
    if per_lane <= 0:
        return most
    shared = max(0, one - per_lane)  # what it needs once, such as weights of its own
    return min(most, max(1, int((SHARE * free - shared) // per_lane)))


def measured_lanes(
    meter: Meter, build: Callable[[int], Callable[[], object]], documents: int, steps: int
) -> int:
    """As many lanes as fit, judged by what one and two lanes were seen to need.

    Args:
        meter: reads the memory of the device, which holds nothing but the model.
        build: builds the method on so many lanes and returns a function that takes a full step.
        documents: the number of documents to be read.
        steps: the number of steps that the longest of them takes.
    """
    if documents < 2:
        return 1
    try:
        one, two = (_bytes_needed(meter, build, lanes, steps) for lanes in (1, 2))
    except Exception as error:  # a method is foreign code: what else it raises is the run's matter
        if not ran_out_of_memory(error):
            raise
        return 1
    return lanes_that_fit(meter.free(), one, two, documents)


def _bytes_needed(
    meter: Meter, build: Callable[[int], Callable[[], object]], lanes: int, steps: int
) -> int:
    """The peak of full steps, above what is still held when the method is gone.

    What was held before is no measure: libraries keep the workspaces of their first use. The first
    step of a method whose memory grows is its smallest, so steps go on until the peak no longer
    rises.
    """
    meter.start()
    step = build(lanes)
    peak = 0
    for _ in range(min(steps, MOST_STEPS)):
        step()
        before, peak = peak, meter.peak()
        if peak == before:
            break
    del step
    return peak - meter.held()
