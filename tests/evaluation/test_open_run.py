"""What a dead worker left is done once more, and what ends two is given up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tta_bench.engine.protocol import Protocol
from tta_bench.evaluation.workers.messages import Ended, Hello, Read
from tta_bench.evaluation.workers.open_run import OpenRun
from tta_bench.model.loading import Loading

HELLO = Hello({"type": "cpu"}, {"threads": 1}, {})
CRASH = "error", "its worker ended (exit code 3)"
LONG = 600


class Documents:
    """Documents of equal length."""

    def __init__(self, number: int):
        self.lengths = np.full(number, LONG)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> str:
        return f"document {index}"


class Record:
    """Takes rows down and writes none."""

    def __init__(self, number: int, lanes: int, **protocol: Any):
        self.rows: dict[int, str] = {}
        spec = SimpleNamespace(
            lanes=str(lanes),
            protocol=Protocol(**protocol),
            device="cpu",
            isolate=False,
            portion=None,
            loading=Loading(),
        )
        documents = Documents(number)
        self.setting = SimpleNamespace(spec=spec, documents=documents, protocol=spec.protocol)
        self.shapes: dict[Any, int] = {}
        self.shown = 0

    @property
    def pending(self) -> list[int]:
        return [i for i in range(len(self.setting.documents)) if i not in self.rows]

    def store(self, result: Any) -> None:
        self.rows.setdefault(result.index, result.status)

    def show(self, tokens: int, nll: float) -> None:
        self.shown += tokens


def opened(record: Any) -> OpenRun:
    where: Any = SimpleNamespace()
    writer: Any = SimpleNamespace(kept={}, path=None)
    return OpenRun(where, writer, record)


def work_through(record: Record, poison: set[int]) -> int:
    """Reads all, by workers of which each dies where it reads poison; returns how many died."""
    run = opened(record)
    deaths = 0
    while isinstance(task := run.task(deaths, HELLO), Read):
        done = []
        for index in task.indices:
            if index in poison:
                break
            done.append(index)
        died = len(done) < len(task.indices)
        # Of documents side by side none has ended where one kills.
        for index in [] if died and run.lanes > 1 else done:
            run.show(deaths, LONG, 0.0)
            run.store(deaths, Ended(index, "done", None, np.zeros(LONG, np.float32), None, 0.1, {}))
        if died:
            run.show(deaths, 7, 1.0)
            run.died(deaths, task, True, CRASH)
            deaths += 1
    return deaths


def test_a_poison_document_is_given_up_and_the_rest_is_done() -> None:
    record = Record(5, 1)
    assert work_through(record, {3}) == 2
    assert [record.rows[i] for i in range(5)] == ["done"] * 3 + ["error", "done"]
    assert record.shown == 4 * LONG, "what is read again was taken back"


def test_every_document_may_be_poison() -> None:
    record = Record(3, 1)
    assert work_through(record, {0, 1, 2}) == 6
    assert set(record.rows.values()) == {"error"}


def test_among_documents_side_by_side_the_one_is_found() -> None:
    record = Record(16, 2)
    assert work_through(record, {4}) == 3  # twice with its neighbours, then alone
    assert [i for i, status in record.rows.items() if status == "error"] == [4]
    assert sorted(record.rows) == list(range(16))


def test_what_is_read_as_one_ends_at_its_poison() -> None:
    record = Record(4, 1, reset="never")
    assert work_through(record, {2}) == 2
    assert record.rows == {0: "done", 1: "done", 2: "error"}


def test_a_worker_that_dies_between_tasks_takes_nothing_along() -> None:
    record = Record(2, 1)
    run = opened(record)
    task = run.task(0, HELLO)
    assert isinstance(task, Read)
    run.store(0, Ended(task.indices[0], "done", None, np.zeros(LONG, np.float32), None, 0.1, {}))
    run.died(0, None, False, CRASH)
    assert run.waits
    assert not run.has(0)
