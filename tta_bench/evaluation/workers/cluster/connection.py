"""The way into a cluster: one that runs already, or one of this machine's that ends with us."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from typing import Any

import ray

from tta_bench.errors import BenchError, UsageError

LOCAL = "local"
_AUTO = "auto"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d+")
_STORE = 128 * 2**20
"""Bytes of the object store of a cluster of our own: one document's losses at a time lie in it."""


def check_address(address: str) -> None:
    """Raises UsageError where it is no address of a cluster."""
    if address not in (LOCAL, _AUTO) and not _ADDRESS.fullmatch(address):
        raise UsageError(
            "--ray takes HOST:PORT of a cluster that this machine is a node of, auto, or local, "
            f"not '{address}'."
        )


class Connection:
    """A session with a cluster.

    Args:
        address: as `--ray` takes it.
        resources: `num_cpus` and `num_gpus` of a cluster of our own.

    Raises:
        BenchError: there is no such cluster, or it does not take us.
    """

    def __init__(self, address: str, resources: dict[str, int]):
        # Read when the daemons start: nothing is reported to anyone, and no port opened for it.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # What daemons report would be printed among tables and JSON; the pool tells what matters.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        self._folder = tempfile.mkdtemp(prefix="tta-ray-") if address == LOCAL else None
        options: dict[str, Any] = {}
        if self._folder is not None:
            options = {"include_dashboard": False, "object_store_memory": _STORE, **resources}
            options["_temp_dir"] = self._folder
        try:
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)
        except BaseException as error:
            self.close()
            if not isinstance(error, Exception):
                raise
            if address == _AUTO and isinstance(error, ConnectionError):
                raise BenchError(
                    "no Ray cluster runs here; start one with `ray start --head`, or give --ray "
                    "local."
                ) from error
            raise BenchError(f"--ray {address}: {' '.join(str(error).split())}") from error

    def close(self) -> None:
        """Leaves the cluster; ends it where it is our own."""
        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
