"""The processes of one training: one alone, or those that torchrun started, one a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from tta_bench.errors import UsageError
from tta_bench.model.device import pick_device

PATIENCE = timedelta(hours=12)
"""How long one waits for another: the first may be fetching a whole corpus."""


@dataclass(frozen=True)
class Processes:
    """This process's place among those of one training.

    Attributes:
        device: the only device that this process uses.
        rank: its number; 0 is the first, which alone writes and speaks.
        count: number of processes.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def agree(self, *values: float) -> tuple[float, ...]:
        """The values of the first process, in every process."""
        if self.count == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(shared, src=0)
        return tuple(shared.tolist())

    def total(self, *values: float) -> tuple[float, ...]:
        """The sum of each value over all processes, which wait for each other."""
        if self.count == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return tuple(sums.tolist())

    def wait(self) -> None:
        """Returns once every process has come here."""
        self.total(0.0)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The block is run by the first process, then by the others, which find what it left."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def part(self) -> None:
        """Ends the connection. After an error this is left undone, since it waits for others."""
        if distributed.is_initialized():
            distributed.destroy_process_group()


def speaks() -> bool:
    """Whether this process is the first, as it can be known before they have met."""
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK") == "0"


def join(device: str) -> Processes:
    """This process's place; under torchrun it meets the others first, if it has not yet.

    Args:
        device: `auto`, `cuda`, `mps` or `cpu`.

    Raises:
        UsageError: see `own_device`.
    """
    local_rank = os.environ.get("LOCAL_RANK")  # torchrun numbers the processes of a machine
    own = own_device(device, None if local_rank is None else int(local_rank))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if local_rank is None:
        return Processes(own)
    if not distributed.is_initialized():
        # Decisions travel through the CPU, so that no process waits for its GPU to take one.
        backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    return Processes(own, distributed.get_rank(), distributed.get_world_size())


def own_device(name: str, local_rank: int | None) -> torch.device:
    """The one device of this process, whatever else the machine has.

    Args:
        name: `auto`, `cuda`, `mps` or `cpu`.
        local_rank: this process's number on its machine; None where it is the only one.

    Raises:
        UsageError: the device is not there, is not the one that training would take, or cannot be
            had by every process.
    """
    device = pick_device(name)
    if device.type == "mps" and local_rank is not None:
        raise UsageError("processes of torchrun need a GPU of CUDA each; use --device cpu.")
    if device.type != "cuda":
        return device
    if device.index:
        raise UsageError(
            f"training takes the first GPU that it sees, not {name}: use --device cuda, and set "
            f"CUDA_VISIBLE_DEVICES={device.index}."
        )
    index, visible = local_rank or 0, torch.cuda.device_count()
    if index >= visible:
        raise UsageError(
            f"torchrun started more processes than there are GPUs: use --nproc-per-node {visible}."
        )
    return torch.device("cuda", index)
