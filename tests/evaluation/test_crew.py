"""A crew has as many workers as there are places, and gives up those that wait for none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tta_bench.errors import BenchError
from tta_bench.evaluation.workers.crew import Crew, Member
from tta_bench.evaluation.workers.messages import Hello

HELLO = Hello({"type": "cpu"}, {"threads": 1}, {})


class Silent(Member):
    """A worker that does nothing but end."""

    alive = True

    def ended(self) -> tuple[str, str]:
        return "error", "its worker ended"

    def end(self) -> None:
        self.alive = False

    def _send(self, task: Any) -> None: ...


class Changing(Crew[Silent]):
    """A crew whose places come and go."""

    room = 3

    def places(self) -> int:
        return self.room

    def listen(self) -> Iterator[tuple[Silent, object]]:
        return iter(())

    def _open(self, spec: Any) -> list[str]:
        return []

    def _hire(self, number: int) -> Silent:
        return Silent(number)


def numbers(crew: Changing) -> list[int]:
    return sorted(member.number for member in crew.members)


def test_places_are_filled_and_refilled() -> None:
    crew = Changing(3)
    crew.fill()
    assert numbers(crew) == [0, 1, 2]
    gone = crew.members[1]
    crew.dismiss(gone)
    assert not gone.alive
    crew.fill()
    assert numbers(crew) == [0, 1, 2]


def test_where_places_are_lost_those_that_work_stay() -> None:
    crew = Changing(3)
    crew.fill()
    crew.members[0].hello = crew.members[2].hello = HELLO
    waiting, crew.room = crew.members[1], 2
    crew.fill()
    assert (numbers(crew), waiting.alive) == ([0, 2], False)
    crew.room = 3
    crew.fill()
    assert numbers(crew) == [0, 1, 2]


def test_a_crew_without_a_place_ends_the_command() -> None:
    crew = Changing(3)
    crew.fill()
    crew.room = 0
    with pytest.raises(BenchError, match="no worker is left"):
        crew.fill()
