"""Which workers are asked for: `--workers` and `--ray`; this module loads without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AskedWorkers:
    """Workers that share the work.

    Attributes:
        count: so many; None: one a GPU of the cluster.
        ray: where the cluster is: `HOST:PORT`, `auto`, or `local` for one that lives as long as
            the command; None: processes on this machine.
    """

    count: int | None
    ray: str | None = None


def asked_workers(count: int | None, ray: str | None) -> AskedWorkers | None:
    """What the two options ask for; None: this process does the work."""
    return None if count is None and ray is None else AskedWorkers(count, ray)
