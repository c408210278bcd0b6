"""What the pool asks of workers, wherever they are: to be hired, given tasks and listened to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tta_bench.errors import BenchError

if TYPE_CHECKING:
    from tta_bench.evaluation.job import SettingSpec
    from tta_bench.evaluation.part import Broken
    from tta_bench.evaluation.workers.messages import Hello, Task

PATIENCE = 1.0
"""Seconds between two looks at whether a worker is there at all."""


class Member(ABC):
    """The driver's side of one worker.

    Args:
        number: its place in the crew.

    Attributes:
        hello: what it said of itself; None until it is there.
        task: what it is at; None while it has nothing to do.
        began: whether the method of its task is set up.
    """

    def __init__(self, number: int):
        self.number = number
        self.hello: Hello | None = None
        self.task: Task | None = None
        self.began = False

    @property
    def idle(self) -> bool:
        """Whether it can take a task."""
        return self.hello is not None and self.task is None

    def give(self, task: Task) -> None:
        """Sends a task; if the worker is gone, that shows when it is listened to."""
        self.task, self.began = task, False
        self._send(task)

    @abstractmethod
    def ended(self) -> Broken:
        """How it ended, as a status and a reason; asked where it was heard to have ended."""

    @abstractmethod
    def end(self) -> None:
        """Ends it now."""

    @abstractmethod
    def _send(self, task: Task) -> None: ...


MemberT = TypeVar("MemberT", bound=Member)


class Crew(ABC, Generic[MemberT]):
    """The workers of one command; none is there before the first task is.

    Attributes:
        members: those that were hired and have not ended.
        count: how many were asked for; 0 where that is not known before it is open.
        threads: of PyTorch in each; known once it is open.
    """

    def __init__(self, count: int):
        self.members: list[MemberT] = []
        self.count, self.threads = count, 1
        self.is_open = False

    def open(self, spec: SettingSpec) -> list[str]:
        """Makes ready to hire workers that read such a setting.

        Returns:
            What the user must know of them.

        Raises:
            BenchError: so many workers cannot share the work.
        """
        notes = self._open(spec)
        self.is_open = True
        return notes

    def fill(self) -> None:
        """Hires workers where places are free; gives up those for whom there is none any more.

        Raises:
            BenchError: there is no place for any.
        """
        places = self.places()
        if len(self.members) > places:
            for member in [one for one in self.members if one.hello is None]:
                self.dismiss(member)
        taken = {member.number for member in self.members}
        free = [number for number in range(self.count) if number not in taken]
        for number in free[: max(0, places - len(taken))]:
            self.members.append(self._hire(number))
        if not self.members:
            raise BenchError("no worker is left; the same command goes on once there are some.")

    def dismiss(self, member: MemberT) -> None:
        """Ends a worker, whose place is free then."""
        member.end()
        self.members.remove(member)

    def facts(self) -> dict[str, Any]:
        """For the manifest: how many share the work, and what each has."""
        return {"number": self.count, "threads": self.threads}

    def close(self) -> None:
        """Ends all workers at once."""
        members, self.members = self.members, []
        for member in members:
            member.end()

    def places(self) -> int:
        """How many workers there is room for at present."""
        return self.count

    @abstractmethod
    def listen(self) -> Iterator[tuple[MemberT, object]]:
        """What workers have said, after `PATIENCE` at the latest; None where one has ended."""

    @abstractmethod
    def _open(self, spec: SettingSpec) -> list[str]: ...

    @abstractmethod
    def _hire(self, number: int) -> MemberT: ...
