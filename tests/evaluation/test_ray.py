"""Actors of a Ray cluster give the bytes of one process, whoever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import workers
from ray_cluster import CPUS, actors_of, cluster, raylet_of
from slow import slow

from tta_bench import extras
from tta_bench.errors import UsageError
from tta_bench.evaluation.execute import run_suite
from tta_bench.evaluation.executors import executor_of
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.suite import Suite
from tta_bench.evaluation.workers.asked import AskedWorkers
from tta_bench.evaluation.workers.messages import Began, Ended, Failed, Said
from tta_bench.model.loading import Loading
from tta_bench.store import load_run

ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")

from ray.exceptions import OutOfMemoryError, RayError  # noqa: E402

from tta_bench.evaluation.workers.cluster import crew as crews  # noqa: E402
from tta_bench.evaluation.workers.cluster.actor import Actor, Place  # noqa: E402
from tta_bench.evaluation.workers.cluster.handshake import require_same, terms  # noqa: E402
from tta_bench.evaluation.workers.cluster.mailbox import Mailbox  # noqa: E402
from tta_bench.evaluation.workers.cluster.member import how_it_ended  # noqa: E402

DOCUMENTS = 6
WORDS = ("--method", "none", "--audit", "off", "--quiet")
SAID = Said("")
END = Ended(0, "done", None, np.zeros(3, np.float32), np.zeros(3, bool), 0.1, {})

# Without a cluster


def test_an_answer_ends_with_a_document() -> None:
    box = Mailbox()
    for message in (SAID, END, SAID, END, END, SAID):
        box.send(message)
    answers = [[type(message) for message in box.fetch(0.01)] for _ in range(5)]
    assert answers == [[Said, Ended], [Said, Ended], [Ended], [Said], []]


def test_no_document_begins_before_it_is_heard_that_the_method_is_set_up() -> None:
    """Else a document that ends its actor at once would count as a set-up that does."""
    box, begins = Mailbox(), threading.Event()

    def work() -> None:
        box.send(Began())
        begins.set()

    threading.Thread(target=work, daemon=True).start()
    assert not begins.wait(0.1)
    assert [type(message) for message in box.fetch(5)] == [Began]
    assert not begins.wait(0.1)  # that answer may never arrive
    assert box.fetch(0.01) == []
    assert begins.wait(5)


def test_a_closed_box_ends_the_work_on_both_sides() -> None:
    box = Mailbox()
    ended = []

    def fill() -> None:
        try:
            while True:
                box.send(Began())
        except BrokenPipeError:
            ended.append(True)

    thread = threading.Thread(target=fill)
    thread.start()
    box.put("a task")
    box.close()
    assert box.recv() == "a task"
    with pytest.raises(EOFError):
        box.recv()
    thread.join(10)
    assert ended == [True]


def test_other_versions_and_other_sources_are_refused() -> None:
    same = terms()
    require_same(same)
    assert len(same["source of tta-bench"]) == 64
    with pytest.raises(UsageError, match=r"has torch \S+ and the command 1\.0; they must be"):
        require_same(same | {"torch": "1.0"})
    with pytest.raises(UsageError, match="another source of tta-bench than the command"):
        require_same(same | {"source of tta-bench": "0" * 64})
    with pytest.raises(UsageError, match="has NVIDIA_TF32_OVERRIDE none and the command 0"):
        require_same(same | {"NVIDIA_TF32_OVERRIDE": "0"})


def test_the_end_of_an_actor_is_told_in_a_clause() -> None:
    died = RayError(
        "The actor died unexpectedly.\n\tclass_name: Actor\n\tip: 192.0.2.2\nThe actor is dead "
        "because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. Some causes (1)"
    )
    status, reason = how_it_ended(died)
    assert status == "error"
    assert reason == ("its worker ended (Worker unexpectedly exits with a connection error code 2)")
    node = RayError("The actor died because its node has died. Node Id: 7, Ip address: 1")
    assert how_it_ended(node) == ("error", "its worker ended (its node has died)")
    lacks = RayError("cannot be imported:\nNo module named 'tta_bench.evaluation'")
    assert "install the same on every node" in how_it_ended(lacks)[1]
    status, reason = how_it_ended(OutOfMemoryError("Task was killed due to the node running low"))
    assert (status, "memory of its machine ran out" in reason) == ("oom", True)


def test_workers_fit_into_nodes_and_not_between_them() -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 3.0, "GPU": 1.0}]
    assert sum(crews._fit(node, {"CPU": 2}) for node in nodes) == 2
    assert sum(crews._fit(node, {"CPU": 1, "GPU": 1}) for node in nodes) == 1


@pytest.mark.parametrize(("count", "room"), [(3, 2), (None, 0)])
def test_a_cluster_without_room_is_told(count: int | None, room: int) -> None:
    crew = crews.RayCrew("auto", count)
    crew._needs = {"CPU": 1, "GPU": 1}
    with pytest.raises(UsageError, match=f"room for {room} workers of 1 CPU and 1 GPU each; give"):
        crew._check_room(room)


def test_there_is_an_actor_for_each_gpu_where_no_number_is_said() -> None:
    crew = crews.RayCrew("auto", None)
    crew._check_room(8)
    assert crew.count == 8


@pytest.mark.parametrize(
    ("loading", "sentence"),
    [(Loading(), "say with --workers how many"), (Loading(device_map="auto"), "--device-map auto")],
)
def test_what_cannot_be_shared_is_told_before_there_is_a_cluster(
    loading: Loading, sentence: str
) -> None:
    spec: Any = SimpleNamespace(device="cpu", loading=loading)
    with pytest.raises(UsageError, match=sentence):
        crews.RayCrew("local", None).open(spec)
    assert not ray.is_initialized()


def asked(address: str, **options: Any) -> None:
    with executor_of(AskedWorkers(1, address), Progress(quiet=True), **options):
        pass


@pytest.mark.parametrize("address", ["here", "ray://head:10001", "", "head:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"--ray takes HOST:PORT .*, auto, or local, not"):
        asked(address)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--ray needs the package ray; run `pip install .*ray"):
        asked("auto")


# With one


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    with cluster() as started:
        yield started


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, and what this process makes of them in `none`."""
    folder = tmp_path_factory.mktemp("ray")
    workers.write_texts(folder, DOCUMENTS, sentences=20)
    (folder / "texts" / "1.txt").write_text(workers.POISON)
    in_this_process(folder, "none", None)
    return folder


def in_this_process(folder: Path, results: str, asked: AskedWorkers | None, **more: Any) -> Any:
    """What `eval` does, without another start of Python; the run."""
    texts = [str(folder / "texts")]
    fields = {"datasets": texts, "protocol": {"chunk": 64}, "device": "cpu", "audit": "off"}
    suite = Suite(**{**fields, **more.pop("suite", {})})
    where: dict[str, Any] = {"name": "it", "results": folder / results, "workers": asked}
    with pytest.MonkeyPatch.context() as here, Progress(quiet=True) as progress:
        here.chdir(folder)
        here.setenv("OMP_NUM_THREADS", "1")
        (path,) = list(run_suite(suite, progress, **where, **more))
    return load_run(path)


@slow
def test_two_actors_give_the_bytes_of_this_process(home: Path, head: Any) -> None:
    run = in_this_process(home, "two", AskedWorkers(2, head.address))
    assert workers.final(home / "two") == workers.final(home / "none")
    assert run.manifest["workers"] == {"number": 2, "threads": 1, "ray": ray.__version__}
    read = Counter[int]()
    for share in run.summary["workers"]:
        assert (share["device"], share["threads"]) == ("cpu", 1)
        assert "card" not in share
        read[share["worker"]] += share["documents"]
    assert sum(read.values()) == DOCUMENTS
    assert not actors_of(head.head_node)


@slow
def test_a_node_with_other_code_or_folders_is_refused(head: Any, tmp_path: Path) -> None:
    ray.init(head.address, logging_level="ERROR", log_to_driver=False)
    try:
        places = {
            "they must be the same on every node": terms() | {"torch": "1.0"},
            "has no folder": terms(),
        }
        for sentence, wanted in places.items():
            folder = tmp_path if "same" in sentence else tmp_path / "missing"
            place = Place("cpu", 1, str(folder), wanted)
            actor = ray.remote(max_concurrency=2)(Actor).remote(place)
            (message,) = ray.get(actor.hear.remote(60.0), timeout=90)
            assert isinstance(message, Failed)
            assert message.kind == "UsageError"
            assert sentence in message.sentence
            ray.kill(actor)
    finally:
        ray.shutdown()


@slow
def test_a_document_that_ends_two_actors_is_a_failed_row(home: Path, head: Any) -> None:
    (home / "plugin.py").write_text(workers.poisoned("lambda: os._exit(3)"))
    more: dict[str, Any] = {"suite": {"methods": ["poisoned"]}, "plugins": [home / "plugin.py"]}
    run = in_this_process(home, "poisoned", AskedWorkers(1, head.address), **more)
    statuses = [row.status for row in run.rows]
    assert statuses == ["done", "error", "done", "done", "done", "done"]
    assert (run.rows[1].reason or "").startswith("its worker ended (Worker ")
    assert (run.rows[1].reason or "").endswith("), 2 times")
    kept = (0, 2, 3, 4, 5)
    nll = [run.nll(run.rows[index]) for index in kept]
    other = load_run(next((home / "none" / "it").iterdir()))
    for index, losses in zip(kept, nll, strict=True):
        assert np.array_equal(losses, other.nll(other.rows[index]))


def wait_for(what: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stored(folder: Path) -> int:
    """Rows that are there by now."""
    return sum(len(file.read_bytes().splitlines()) for file in folder.glob("it/*/rows.jsonl"))


@contextmanager
def begun(home: Path, results: str, address: str, count: int) -> Iterator[Any]:
    """The command, which ends with the test at the latest."""
    words = (*WORDS, "--workers", count, "--ray", address)
    command = workers.start(home, *words, results=results)
    try:
        yield command
    finally:
        command.kill()


def wait_for_rows(command: Any, results: Path, rows: int) -> None:
    wait_for(lambda: stored(results) >= rows or command.poll() is not None, 400)
    assert command.poll() is None, command.communicate()[0]


@slow
def test_actors_and_their_driver_may_be_killed(home: Path, head: Any) -> None:
    results = home / "killed"
    with begun(home, "killed", head.address, 2) as command:
        wait_for_rows(command, results, 1)
        os.kill(actors_of(head.head_node)[0], signal.SIGKILL)
        wait_for_rows(command, results, 3)
        command.kill()
        command.communicate(timeout=60)
    wait_for(lambda: not actors_of(head.head_node), 10)
    assert stored(results) < DOCUMENTS
    in_this_process(home, "killed", AskedWorkers(1, head.address))
    assert workers.final(results) == workers.final(home / "none")


@slow
def test_four_actors_on_two_nodes_outlive_one_of_them(home: Path, head: Any) -> None:
    node = head.add_node(**CPUS)
    with begun(home, "node", head.address, 4) as command:
        wait_for_rows(command, home / "node", 1)
        os.kill(raylet_of(node), signal.SIGKILL)
        output, _ = command.communicate(timeout=400)
    assert command.returncode == 0, output
    assert workers.final(home / "node") == workers.final(home / "none")
    assert not actors_of(head.head_node)


@slow
def test_ctrl_c_ends_the_cluster_that_came_with_the_command(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    results = home / "interrupted"
    with begun(home, "interrupted", "local", 2) as command:
        wait_for_rows(command, results, 1)
        os.killpg(command.pid, signal.SIGINT)
        # Ten seconds are meant; a machine full of other work gets three times as long.
        wait_for(lambda: set(workers.processes_of(command.pid)) <= {command.pid}, 30)
        output, _ = command.communicate(timeout=60)
    assert not workers.processes_of(command.pid)
    assert command.returncode == 130, output
    assert "Interrupted" in output
    assert "Traceback" not in output
    statuses = [json.loads(path.read_text())["status"] for path in results.rglob("summ*")]
    assert statuses == ["interrupted"]
