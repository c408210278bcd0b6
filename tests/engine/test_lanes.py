"""How many lanes a run gets, and what becomes of it when memory runs out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tta_bench import Method, Scores, Window
from tta_bench.contract.choice import MethodChoice
from tta_bench.engine.lanes import MOST_LANES, SHARE, asked_lanes, lanes_that_fit, measured_lanes
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError
from tta_bench.evaluation.manifest import run_manifest
from tta_bench.evaluation.plan import setting_specs
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.run import run_method
from tta_bench.evaluation.setting import Setting, open_setting
from tta_bench.evaluation.suite import Suite
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import load_model
from tta_bench.store import Run, RunWriter, load_run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WORDS = (20, 65, 45, 10, 80, 32)

# What is asked for


def test_what_is_asked_for() -> None:
    protocol, never = Protocol(), Protocol(reset="never")
    assert asked_lanes("auto", protocol, CUDA, 9) is None
    assert asked_lanes("auto", protocol, CPU, 9) == 1
    assert asked_lanes("auto", never, CUDA, 9) == 1
    assert asked_lanes("12", protocol, CUDA, 9) == 9
    assert asked_lanes("4", protocol, CPU, 9) == 4
    with pytest.raises(UsageError, match="--lanes 1"):
        asked_lanes("2", never, CPU, 9)
    with pytest.raises(UsageError, match="a number from 1"):
        asked_lanes("0", protocol, CPU, 9)


# The arithmetic


def test_lanes_fill_the_planned_share() -> None:
    assert lanes_that_fit(free=1000, one=30, two=60, documents=99) == 30
    assert lanes_that_fit(free=1000, one=330, two=360, documents=99) == 20  # 300 once
    assert lanes_that_fit(free=1000, one=30, two=60, documents=7) == 7
    assert lanes_that_fit(free=10, one=30, two=60, documents=7) == 1
    assert lanes_that_fit(free=10**6, one=30, two=60, documents=999) == MOST_LANES
    assert lanes_that_fit(free=1000, one=60, two=60, documents=999) == MOST_LANES


SIZES = st.integers(0, 2**40)


@given(SIZES, SIZES, SIZES, st.integers(1, 10**6))
def test_lanes_keep_their_bounds(free: int, one: int, two: int, documents: int) -> None:
    lanes = lanes_that_fit(free, one, two, documents)
    assert 1 <= lanes <= min(documents, MOST_LANES)


@given(SIZES, SIZES, st.integers(1, 2**40), st.integers(1, 10**6))
def test_lanes_fit_and_one_more_would_not(
    free: int, shared: int, per_lane: int, documents: int
) -> None:
    def needed(lanes: int) -> int:
        return shared + lanes * per_lane

    lanes = lanes_that_fit(free, needed(1), needed(2), documents)
    if lanes > 1:
        assert needed(lanes) <= SHARE * free
    if lanes < min(documents, MOST_LANES):
        assert needed(lanes + 1) > SHARE * free - 1e-3  # floating point


@given(SIZES, SIZES, SIZES, SIZES, st.integers(1, 10**6))
def test_more_memory_is_never_fewer_lanes(
    free: int, more: int, one: int, two: int, documents: int
) -> None:
    lanes = lanes_that_fit(free, one, two, documents)
    assert lanes_that_fit(free + more, one, two, documents) >= lanes


# The measuring


class FakeMeter:
    """A device of `size` bytes, of which the model has 100; what is built is told to `hold`."""

    def __init__(self, size: int = 1100) -> None:
        self.size = size
        self.kept = 100
        self.method = 0
        self.most = 0

    def start(self) -> None:
        self.method, self.most = 0, self.kept

    def peak(self) -> int:
        return self.most

    def held(self) -> int:
        self.method = 0
        return self.kept

    def free(self) -> int:
        return self.size - self.held()

    def hold(self, method: int, transient: int = 0) -> None:
        self.method = method
        self.most = max(self.most, self.kept + method + transient)
        if self.most > self.size:
            raise torch.OutOfMemoryError("out of memory")


def builder(meter: FakeMeter, per_lane: int, grows: tuple[int, ...] = (0,), workspace: int = 0):
    """A method of so many bytes a lane, and in its n-th step `grows[n]` more a lane."""

    def build(lanes: int):
        meter.hold(lanes * per_lane)
        taken = 0

        def step() -> None:
            nonlocal taken
            meter.kept = 100 + workspace  # libraries take it with their first step, for good
            more = grows[min(taken, len(grows) - 1)]
            taken += 1
            meter.hold(lanes * (per_lane + more), transient=5 * lanes)

        return step

    return build


def test_lanes_are_measured() -> None:
    meter = FakeMeter()
    assert measured_lanes(meter, builder(meter, 40), documents=99, steps=9) == 900 // 45


def test_what_libraries_keep_is_no_part_of_a_lane() -> None:
    meter = FakeMeter()
    build = builder(meter, 40, workspace=200)
    assert measured_lanes(meter, build, documents=99, steps=9) == 720 // 45


def test_steps_go_on_while_the_peak_grows() -> None:
    meter = FakeMeter()
    build = builder(meter, 40, grows=(0, 10, 20, 30))
    assert measured_lanes(meter, build, documents=99, steps=9) == 900 // 75
    assert measured_lanes(meter, build, documents=99, steps=2) == 900 // 55  # no more are taken


def test_one_document_needs_no_measuring() -> None:
    def build(lanes: int):
        raise AssertionError

    assert measured_lanes(FakeMeter(), build, documents=1, steps=9) == 1
    assert measured_lanes(FakeMeter(), build, documents=0, steps=9) == 1


def test_where_two_lanes_do_not_fit_there_is_one() -> None:
    meter = FakeMeter()
    assert measured_lanes(meter, builder(meter, 600), documents=99, steps=9) == 1


def test_what_else_a_method_raises_is_not_for_the_lanes() -> None:
    def build(lanes: int):
        raise ValueError("what a plugin may raise")

    with pytest.raises(ValueError, match="plugin"):
        measured_lanes(FakeMeter(), build, documents=9, steps=9)


# Runs that run out of memory


class Hungry(Method):
    """`none` that runs out of memory with more than `most` lanes, once `after` steps are taken.

    0: when it is built; 1: in the warm-up (the step before counts FLOPs); 2: where it first reads.
    """

    most, after = 2, 0
    error: type[Exception] = torch.OutOfMemoryError
    read: list[list[int]]
    """The inputs of every lane in the first step that reads, of each attempt."""

    def prepare(self) -> None:
        self.steps = 0
        self._allocate()

    def _allocate(self) -> None:
        if self.steps >= self.after and self.lanes > self.most:
            raise self.error("out of memory")

    def score(self, window: Window) -> Scores:
        self._allocate()
        self.steps += 1
        if self.steps == 3:
            self.read.append(window.lengths.tolist())
        return self.model.logits(window)


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load_model("builtin:tiny", "float32", "cpu", False)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number, length in enumerate(WORDS):
        words = " ".join(f"word{number}-{i % 7}" for i in range(length))
        (folder / f"{number}.txt").write_text(words)
    return folder


@pytest.fixture(scope="module", autouse=True)
def unprobed() -> Iterator[None]:
    """Hungry methods fail the probes, and the probes take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tta_bench.evaluation.verdict.probed", lambda choice: (True, (), None, ()))
        yield


def make_setting(tiny: LanguageModel, texts: Path, lanes: str, **protocol: Any) -> Setting:
    protocol = {"chunk": 32} | protocol
    suite = Suite(datasets=[str(texts)], protocol=protocol, lanes=lanes, audit="off")
    (spec,) = setting_specs(suite)
    return open_setting(spec, tiny)


def run_in(
    setting: Setting,
    group: Path,
    cls: type[Method] = Method,
    debug: bool = False,
    name: str = "none",
) -> tuple[Run, str]:
    """The stored run, and what the user was told."""
    told = Console(file=io.StringIO(), width=200)
    choice = MethodChoice(name, cls, cls.Params())
    with (
        Progress(console=told) as progress,
        RunWriter.resume(group, run_manifest(setting, choice)) as writer,
    ):
        run_method(setting, choice, writer, progress, debug)
    assert isinstance(told.file, io.StringIO)
    return load_run(writer.path), told.file.getvalue()


def hungry(**changes: Any) -> type[Hungry]:
    """A class of its own, since what it has read is kept there."""
    return type("Hungry", (Hungry,), {"read": [], "__module__": __name__} | changes)


@pytest.fixture(scope="module")
def alone(
    tiny: LanguageModel, texts: Path, unprobed: None, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    group = tmp_path_factory.mktemp("alone")
    return run_in(make_setting(tiny, texts, "1"), group, hungry())[0]


def assert_same(run: Run, other: Run) -> None:
    assert [row.key for row in run.rows] == [row.key for row in other.rows]
    for row, wanted in zip(run.rows, other.rows, strict=True):
        assert (row.status, row.index) == ("done", wanted.index)
        np.testing.assert_allclose(run.nll(row), other.nll(wanted), rtol=1e-5, atol=1e-5)


LATE = 6  # steps after which some documents have ended


@pytest.mark.parametrize(
    ("after", "error", "debug"),
    [
        (0, torch.OutOfMemoryError, False),
        (0, MemoryError, False),
        (1, torch.OutOfMemoryError, False),
        (2, torch.OutOfMemoryError, False),
        (LATE, torch.OutOfMemoryError, False),
        (LATE, torch.OutOfMemoryError, True),
    ],
)
def test_fewer_lanes_go_on(
    tiny: LanguageModel,
    texts: Path,
    tmp_path: Path,
    alone: Run,
    after: int,
    error: type[Exception],
    debug: bool,
) -> None:
    cls = hungry(after=after, error=error)
    run, told = run_in(make_setting(tiny, texts, "5"), tmp_path / "few", cls, debug)
    assert_same(run, alone)
    assert "memory ran out with 5 lanes; it goes on with 2." in told
    assert told.count("memory ran out") == 1
    assert "could not be counted" not in told
    assert (run.status, run.summary["reason"]) == ("complete", None)
    assert (run.manifest["lanes"], run.summary["lanes"], run.lanes) == (5, 2, 2)
    assert [session["lanes"] for session in run.sessions] == [2]
    assert run.cost("flops_per_token") == alone.cost("flops_per_token")


def test_lanes_are_halved_until_they_fit(
    tiny: LanguageModel, texts: Path, tmp_path: Path, alone: Run
) -> None:
    run, told = run_in(make_setting(tiny, texts, "99"), tmp_path / "few", hungry(after=2))
    assert_same(run, alone)
    assert "with 6 lanes; it goes on with 3." in told
    assert "with 3 lanes; it goes on with 1." in told
    assert run.lanes == 1


def test_one_lane_too_many_is_a_row(tiny: LanguageModel, texts: Path, tmp_path: Path) -> None:
    for after, rows in ((0, 1), (2, len(WORDS))):  # a fresh instance tried each of the others
        cls = hungry(most=0, after=after)
        run, told = run_in(make_setting(tiny, texts, "2"), tmp_path / str(after), cls)
        assert (run.status, run.summary.get("lanes", 1)) == ("oom", 1)
        assert [row.status for row in run.rows] == ["oom"] * rows
        assert "with 2 lanes; it goes on with 1." in told


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_fresh_instance_goes_on_behind_a_document_in_which_the_method_raises(
    tiny: LanguageModel, texts: Path, tmp_path: Path, alone: Run, lanes: int
) -> None:
    longest = max(alone.rows, key=lambda row: row.tokens)

    class Stumbling(Method):
        """Raises at the end of the longest document."""

        def prepare(self) -> None:
            self.steps = torch.zeros(self.lanes)

        def reset(self, lane: int) -> None:
            super().reset(lane)
            self.steps[lane] = 0

        def score(self, window: Window) -> Scores:
            self.steps += window.lengths > 0
            if self.steps.max() * window.chunk_size >= longest.tokens:
                raise RuntimeError("it stumbled")
            return self.model.logits(window)

    run, _ = run_in(make_setting(tiny, texts, str(lanes)), tmp_path / "run", Stumbling)
    assert (run.status, run.summary["reason"]) == ("error", "RuntimeError: it stumbled")
    failed = [row for row in run.rows if row.status != "done"]
    assert longest.key in [row.key for row in failed]
    assert len(failed) <= lanes  # those that were read beside it
    assert [row.key for row in run.rows] == [row.key for row in alone.rows]
    for row, wanted in zip(run.rows, alone.rows, strict=True):
        if row not in failed:
            np.testing.assert_allclose(run.nll(row), alone.nll(wanted), rtol=1e-5, atol=1e-5)


def test_documents_that_ended_stay_and_cost_what_they_did(
    tiny: LanguageModel, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, float]] = []
    update = Progress.update
    monkeypatch.setattr(
        Progress,
        "update",
        lambda self, tokens, nll, done: (
            shown.append((tokens, nll)),
            update(self, tokens, nll, done),
        ),
    )
    cls = hungry(after=LATE)
    run, _ = run_in(make_setting(tiny, texts, "5"), tmp_path / "few", cls)
    tokens, nll = (sum(column) for column in zip(*shown, strict=True))
    assert tokens == sum(row.tokens for row in run.rows)  # what was thrown away is taken back
    assert nll == pytest.approx(sum(row.nll or 0.0 for row in run.rows))
    assert any(amount < 0 for amount, _ in shown)
    # Five lanes, of which some documents ended; the two longest of the others go on.
    assert [len(lengths) for lengths in cls.read] == [5, 2]
    assert run.summary["timed_tokens"] == tokens
    assert run.cost("seconds") == pytest.approx(sum(row.seconds for row in run.rows))
    assert run.cost("tokens_per_second") == pytest.approx(tokens / (run.cost("seconds") or 0.0))


# Order


def order_of(run: Run) -> list[int]:
    lines = (run.path / "rows.jsonl").read_text().splitlines()
    return [int(line.split('"index":')[1].split(",")[0]) for line in lines]


def test_the_longest_are_read_first_by_several_lanes(
    tiny: LanguageModel, texts: Path, tmp_path: Path
) -> None:
    setting = make_setting(tiny, texts, "6")
    lengths = setting.documents.lengths.tolist()
    assert lengths == [len(document.token_ids) for document in setting.documents]
    run, _ = run_in(setting, tmp_path / "six", hungry(most=6))
    assert [lengths[index] for index in order_of(run)] == sorted(lengths)
    run, _ = run_in(make_setting(tiny, texts, "1"), tmp_path / "one", hungry())
    assert order_of(run) == list(range(6))
    never = make_setting(tiny, texts, "auto", reset="never")
    assert order_of(run_in(never, tmp_path / "never", hungry())[0]) == list(range(6))


def test_a_run_is_taken_up_with_other_lanes(
    tiny: LanguageModel, texts: Path, tmp_path: Path, alone: Run
) -> None:
    group = tmp_path / "cut"
    run, _ = run_in(make_setting(tiny, texts, "3"), group, hungry(most=3))
    rows = run.path / "rows.jsonl"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:2]))
    (run.path / "summary.json").unlink()
    run, told = run_in(make_setting(tiny, texts, "4"), group, hungry())
    assert "2 of 6 documents are kept" in told
    assert_same(run, alone)
    assert [session["lanes"] for session in run.sessions] == [3, 2]


# As many as fit


def test_each_method_gets_as_many_lanes_as_fit(
    tiny: LanguageModel,
    texts: Path,
    tmp_path: Path,
    alone: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = FakeMeter()
    monkeypatch.setattr("tta_bench.engine.trial.CudaMeter", lambda device: meter)

    class Holding(Method):
        """A method that takes 250 bytes a lane."""

        def score(self, window: Window) -> Scores:
            meter.hold(250 * self.lanes)
            return self.model.logits(window)

    setting = make_setting(tiny, texts, "auto")
    setting.lanes = None  # as on a GPU
    run, _ = run_in(setting, tmp_path / "auto", Holding)
    assert_same(run, alone)
    assert (run.manifest["lanes"], run.lanes) == (None, 3)
    assert run.manifest["config"]["lanes"] == "auto"
    light, _ = run_in(setting, tmp_path / "light", hungry(most=6))
    assert light.lanes == 6  # it needs nothing that the meter saw
    failing = hungry(error=ValueError, most=0)
    broken, _ = run_in(setting, tmp_path / "broken", failing)
    assert (broken.status, [row.status for row in broken.rows]) == ("error", ["error"])
