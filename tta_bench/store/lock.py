"""The lock that lets one process at a time write a run."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from tta_bench.errors import UsageError
from tta_bench.store.files import explained

try:
    import fcntl
except ImportError:  # Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_TRIES, _PAUSE = (
    5,
    0.05,
)  # in seconds; another process that calls `is_locked` holds the lock for an instant


class RunLock:
    """The lock of a run's folder, held until `release` or until the process ends in any way.

    The operating system keeps it (flock) and frees it with the process, so a lock is never stale.
    The pid in the file serves the error message only.

    Raises:
        UsageError: another process is writing the run.
        BenchError: the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        self._descriptor = self._take()

    def _take(self) -> int:
        for _ in range(_TRIES):
            with explained(self.path):
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if _try_lock(descriptor) and _is_file(descriptor, self.path):
                os.ftruncate(descriptor, 0)
                with suppress(OSError):  # on a full disk the lock works without the pid
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
            os.close(descriptor)
            time.sleep(_PAUSE)
        raise UsageError(
            f"{self.path.parent} is being written by another process ({_owner(self.path)}); wait "
            "for it to end, or give this run another --name."
        )

    def release(self) -> None:
        """Removes the file, then releases the lock, so that a waiting process creates its own."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process is writing the run in this folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether the open file is still at `path`; its last owner may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _owner(path: Path) -> str:
    try:
        return f"pid {int(path.read_text())}"
    except (OSError, ValueError):
        return "pid unknown"
