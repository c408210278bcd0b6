"""One process writes a run: the lock it holds while it does."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from tta_bench.errors import UsageError
from tta_bench.store.files import explained

try:
    import fcntl
except ImportError:  # not on Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_TRIES, _PAUSE = 5, 0.05  # seconds; `is_locked` of another process holds the lock for an instant


class RunLock:
    """The lock of a run's folder, held until `release` or until the process dies, however it dies.

    The system keeps it (flock) and frees it with the process, so that no lock is ever stale; the
    pid in the file is for the message.
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
                with suppress(OSError):  # a full disk: the lock holds without its pid
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
            os.close(descriptor)
            time.sleep(_PAUSE)
        raise UsageError(
            f"{self.path.parent} is being written by another process ({_owner(self.path)}); wait "
            "for it to end, or give this run another --name."
        )

    def release(self) -> None:
        """Removes the file, then lets go: whoever waits sees that it is gone and makes its own."""
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
    """False if the former holder has removed the file between our opening and locking it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _owner(path: Path) -> str:
    try:
        return f"pid {int(path.read_text())}"
    except (OSError, ValueError):
        return "pid unknown"
