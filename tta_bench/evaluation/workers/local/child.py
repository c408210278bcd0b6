"""The process of a worker, from its first moment: deaf to Ctrl-C, and gone when its driver is."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection

from tta_bench.engine.isolation.orphan import end_with_parent
from tta_bench.evaluation.workers.worker import serve


def main(connection: Connection, device: str, threads: int) -> None:
    """Does tasks until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's matter, which ends this
    end_with_parent()
    serve(connection, device, threads)
