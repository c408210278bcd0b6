"""This machine: how many workers it has room for, what each gets, and whether memory ran out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tta_bench.errors import UsageError
from tta_bench.evaluation.workers.fixed import fixed_environment
from tta_bench.model.device import pick_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tta_bench.evaluation.job import SettingSpec

_KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


def check_workers(count: int, spec: SettingSpec) -> None:
    """Raises UsageError where so many workers cannot share the work."""
    kind = pick_device(spec.device).type
    most = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)
    if spec.loading.device_map is not None and (kind != "cuda" or not most):
        raise UsageError(
            "--device-map auto with --workers spreads a model over the GPUs of each worker, and "
            "there is no GPU here; leave it out."
        )
    if most is not None and count > most:
        cards = "is one GPU" if most == 1 else f"are {most} GPUs"
        raise UsageError(
            f"there {cards} here and a worker takes one: give --workers {most}, or --device cpu."
        )
    if most is not None and spec.loading.device_map is not None and most % count:
        even = max(number for number in range(1, count) if most % number == 0)
        raise UsageError(
            f"{most} GPUs cannot be divided evenly among {count} workers, over whose GPUs "
            f"--device-map auto spreads a model: give --workers {even}, or set "
            "CUDA_VISIBLE_DEVICES."
        )


def gpus_of(count: int, spec: SettingSpec) -> int:
    """GPUs of each of so many workers: one, or an even share of all where a model is spread."""
    return 1 if spec.loading.device_map is None else torch.cuda.device_count() // count


def environment_of(number: int, threads: int, device: str, gpus: int = 1) -> dict[str, str]:
    """What a worker finds in its environment, its GPUs among it."""
    found = fixed_environment(threads)
    if pick_device(device).type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = [card.strip() for card in visible.split(",")] if visible else []
        places = range(number * gpus, (number + 1) * gpus)
        own = [cards[place] if cards else str(place) for place in places]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return found


def memory_kills() -> int | None:
    """Processes that the system has ended so far because memory ran out; None if it does not say.

    They are those of the container where there is one, and of the machine.
    """
    counts = [count for path in _KILLS if (count := _count(path)) is not None]
    return sum(counts) if counts else None


def _count(path: Path) -> int | None:
    try:
        words = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return None
    return _number(words)


def _number(words: Mapping[str, str]) -> int | None:
    found = words.get("oom_kill")
    return int(found) if found is not None and found.isdecimal() else None
