"""A real Ray cluster on this machine, for tests; commands connect to it by its address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CPUS = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": 100 * 2**20}


@contextmanager
def cluster() -> Iterator[Any]:
    """A head of two CPUs; `add_node(**CPUS)` adds as many."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    # A machine whose memory others have filled is no reason to end an actor here.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    from ray.cluster_utils import Cluster

    started = None
    while started is None:
        try:
            started = Cluster(True, head_node_args={**CPUS, "include_dashboard": False})
        except Exception as error:  # a node gets 30 s to start, which a busy machine may not give
            if "timed out during startup" not in str(error):
                raise
    try:
        yield started
    finally:
        started.shutdown()


def raylet_of(node: Any) -> int:
    """The process that manages a node."""
    (raylet,) = node.all_processes["raylet"]
    return int(raylet.process.pid)


def actors_of(node: Any) -> list[int]:
    """The processes of actors on a node."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == raylet_of(node) and line.startswith(b"ray::Actor"):
                found.append(int(folder.name))
    return sorted(found)
