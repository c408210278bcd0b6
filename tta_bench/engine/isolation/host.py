"""This side: starts the process of a method, and notices when it is gone."""

from __future__ import annotations

import multiprocessing
import signal
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from torch import Tensor

from tta_bench.cost.counter import Counted, add_counted, counting
from tta_bench.engine.isolation.answers import receive_answer, receive_rows
from tta_bench.engine.isolation.child import Origin, Request, serve
from tta_bench.errors import ChangedError, MethodError

_PATIENCE = 0.5
"""Seconds between two looks at whether the process still lives."""

Result = TypeVar("Result")


class IsolatedError(MethodError):
    """What the method raised in its process, or the end of that process."""


class GoneError(IsolatedError):
    """The process of the method has ended, and what it held with it."""


class IsolatedMemoryError(IsolatedError, MemoryError):
    """Memory ran out in the method's process."""


class Host:
    """The process of a method, started when it is first needed; it ends with this object.

    All instances that are built one after another live in it. If it dies, whatever is asked of an
    instance raises `IsolatedError`, and the next `build` starts another process.
    """

    def __init__(self, origin: Origin):
        self.origin = origin
        self.dropped: list[int] = []
        self._built = 0
        self._first = 0
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._finalizer: weakref.finalize[Any, Host] | None = None

    @property
    def lives(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        """Starts the process anew, with nothing in it but the model; ends the one before.

        Raises:
            IsolatedError: the model or the method cannot be loaded there.
            ChangedError: one of them is no longer what it was here.
        """
        self.close()
        context = multiprocessing.get_context("spawn")  # a fork would inherit the documents
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, self.origin), daemon=True)
        process.start()
        there.close()
        self._process, self._connection, self._first = process, here, self._built
        self._finalizer = weakref.finalize(self, _end, process, here)
        self._received()

    def close(self) -> None:
        """Ends the process."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._connection = self._finalizer = None

    def build(self, lanes: int, seed: int) -> int:
        """Builds an instance; returns its number.

        Raises:
            IsolatedError: the method raised.
        """
        if not self.lives:
            self.start()
        number = self._built
        self._built += 1
        self.request("build", number, lanes, seed)
        return number

    def request(self, verb: str, *arguments: Any) -> dict[str, Any]:
        """The answer to a question; its FLOPs join a count that is going on here.

        Raises:
            IsolatedError: the method raised, or its process is gone.
        """
        number = arguments[0]
        if self._connection is None or number < self._first:
            raise GoneError("the method's process has ended, and its state with it.")
        dropped = tuple(self.dropped)
        del self.dropped[: len(dropped)]  # more may be dropped at any moment
        try:
            self._connection.send(Request(verb, arguments, dropped, counting()))
        except OSError:
            raise self._gone() from None
        answer = self._received()
        if "flops" in answer:
            names = tuple(map(str, answer["blind_ops"]))
            add_counted(Counted(float(answer["flops"]), names))
        return answer

    def rows(self, dtype: object, shape: tuple[int, int, int]) -> Tensor:
        """The rows [B, C, V] that follow an answer.

        Raises:
            IsolatedError: they have another size, or the process is gone.
        """
        assert self._connection is not None
        connection = self._connection
        return self._patiently(lambda: receive_rows(connection, dtype, shape))

    def _received(self) -> dict[str, Any]:
        assert self._connection is not None
        connection = self._connection
        answer = self._patiently(lambda: receive_answer(connection))
        if answer.get("changed"):
            raise ChangedError(str(answer["failed"]))
        if "failed" in answer:
            kind = IsolatedMemoryError if answer.get("oom") else IsolatedError
            raise kind(str(answer["failed"]))
        return answer

    def _patiently(self, receive: Callable[[], Result]) -> Result:
        """What `receive` returns as soon as something is there, unless the process ends."""
        assert self._connection is not None
        assert self._process is not None
        try:
            while not self._connection.poll(_PATIENCE):
                if not self._process.is_alive() and not self._connection.poll(0):
                    raise EOFError
            return receive()
        except (EOFError, OSError):
            raise self._gone() from None
        except ValueError as error:
            self.close()  # what else comes through the connection has no meaning any more
            raise IsolatedError(f"the method's process sent no valid answer ({error}).") from None

    def _gone(self) -> GoneError:
        """Ends what is left of the process and says how it ended."""
        process = self._process
        assert process is not None
        process.join(1.0)
        code = process.exitcode
        self.close()
        how = f"exit code {code}"
        if code is None:
            how = "its connection was closed"
        elif code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        return GoneError(f"the method's process ended before it answered ({how}).")


def _end(process: BaseProcess, connection: Connection) -> None:
    """Ends a process; one that does not listen is killed."""
    connection.close()
    process.join(0.2)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()
