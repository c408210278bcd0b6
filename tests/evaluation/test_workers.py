"""Workers give the bytes of one process, whoever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import workers
from command import in_a_process
from slow import slow

from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError
from tta_bench.evaluation import shards as shards_module
from tta_bench.evaluation.execute import run_suite
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.shards import shards, shards_left
from tta_bench.evaluation.suite import Suite
from tta_bench.evaluation.workers.asked import asked_workers
from tta_bench.evaluation.workers.fixed import threads_of
from tta_bench.evaluation.workers.local import machine, process
from tta_bench.model.loading import Loading
from tta_bench.store import load_run

QUIET = ("--quiet",)
METHODS = ("--method", "none", "--method", "dynamic-eval:subset=mlp")
FAST = (*METHODS, "--audit", "off")
REST = ("--workers", 2, "--audit", "off")
DOCUMENTS = 5

# Shards


class Lengths:
    """Documents of which only the lengths are known."""

    def __init__(self, lengths: list[int]):
        self.lengths = np.array(lengths)

    def __len__(self) -> int:
        return len(self.lengths)


def setting(lengths: list[int], lanes: str = "1", **protocol: Any) -> Any:
    """What is asked of a setting to cut it."""
    spec = SimpleNamespace(
        lanes=lanes,
        protocol=Protocol(**protocol),
        device="cpu",
        isolate=False,
        portion=None,
        loading=Loading(),
    )
    documents = Lengths(lengths)
    return SimpleNamespace(spec=spec, documents=documents, protocol=spec.protocol)


@pytest.mark.parametrize("lanes", ["1", "3"])
def test_each_document_is_in_one_shard(lanes: str) -> None:
    lengths = [(37 * i) % 700 for i in range(60)]
    found = shards(setting(lengths, lanes))
    assert Counter(index for shard in found for index in shard) == Counter(range(60))
    assert len(found) > 1


def test_long_documents_are_shards_of_their_own_and_short_ones_are_not() -> None:
    found = shards(setting([600, 100, 100, 500, 3, 900]))
    assert found == [(0,), (1, 2, 3), (4, 5)]


def test_several_lanes_end_together() -> None:
    lengths = [100 * (1 + i % 9) for i in range(50)]
    for shard in shards(setting(lengths, "2")):
        longest, shortest = max(lengths[i] for i in shard), min(lengths[i] for i in shard)
        assert longest - shortest <= 200


def test_what_is_never_reset_is_one_shard() -> None:
    assert shards(setting([600] * 5, reset="never")) == [(0, 1, 2, 3, 4)]


def test_what_is_stored_is_taken_out_and_the_longest_comes_first() -> None:
    one = setting([600, 100, 100, 500, 3, 900])
    assert shards_left(one, set()) == [(4, 5), (1, 2, 3), (0,)]
    assert shards_left(one, {0, 2}) == [(4, 5), (1, 3)]
    assert shards_left(one, set(range(6))) == []


def test_with_several_lanes_a_shard_is_read_with_its_neighbours() -> None:
    one = setting([600] * 16, "2")
    assert [len(shard) for shard in shards(one)] == [8, 8]
    assert shards_left(one, {0, 9}) == shards(one)
    assert shards_left(one, set(range(8))) == shards(one)[1:]


# The machine


def test_threads_on_a_cpu_do_not_follow_from_the_number_of_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert {threads_of("cpu", count) for count in (1, 2, 20)} == {1}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert {threads_of("cpu", count) for count in (1, 2, 20)} == {3}


def test_a_worker_takes_a_gpu_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pick_device", lambda name: SimpleNamespace(type="cuda"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    names = [machine.environment_of(n, 1, "cuda")["CUDA_VISIBLE_DEVICES"] for n in (0, 1)]
    assert names == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7")
    names = [machine.environment_of(n, 1, "cuda")["CUDA_VISIBLE_DEVICES"] for n in (0, 1)]
    assert names == ["5", "GPU-7"]


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pick_device", lambda name: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 2)
    spec: Any = SimpleNamespace(device="auto", loading=Loading())
    machine.check_workers(2, spec)
    with pytest.raises(UsageError, match="there are 2 GPUs here and a worker takes one"):
        machine.check_workers(3, spec)


def test_a_model_is_spread_over_an_even_share_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pick_device", lambda name: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 8)
    spec: Any = SimpleNamespace(device="auto", loading=Loading(device_map="auto"))
    for count in (1, 2, 4, 8):
        machine.check_workers(count, spec)
    assert [machine.gpus_of(count, spec) for count in (1, 2, 4, 8)] == [8, 4, 2, 1]
    with pytest.raises(UsageError, match=r"8 GPUs cannot be divided .* give --workers 4,"):
        machine.check_workers(6, spec)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [machine.environment_of(n, 1, "cuda", 2)["CUDA_VISIBLE_DEVICES"] for n in (0, 3)]
    assert seen == ["0,1", "6,7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7,1,0")
    assert machine.environment_of(1, 1, "cuda", 2)["CUDA_VISIBLE_DEVICES"] == "1,0"
    one = setting([600] * 40, "auto")
    one.spec.device, one.spec.loading = "cuda", Loading(device_map="auto")
    monkeypatch.setattr(shards_module, "pick_device", lambda name: torch.device("cuda"))
    assert shards_module.planned_lanes(one) == 1


def test_there_is_no_model_to_spread_without_gpus() -> None:
    spec: Any = SimpleNamespace(device="cpu", loading=Loading(device_map="auto"))
    with pytest.raises(UsageError, match="there is no GPU here; leave it out"):
        machine.check_workers(2, spec)


@pytest.mark.parametrize(("kills", "status"), [((4, 4), "error"), ((4, 5), "oom"), (None, "error")])
def test_a_lack_of_memory_is_told_from_a_crash(
    monkeypatch: pytest.MonkeyPatch, kills: tuple[int, int] | None, status: str
) -> None:
    counts = iter(kills or (None, None))
    monkeypatch.setattr(process, "memory_kills", lambda: next(counts))
    worker = process.WorkerProcess(0, "cpu", 1)
    os.kill(worker.process.pid or 0, signal.SIGKILL)
    found, reason = worker.ended()
    worker.end()
    assert found == status
    assert ("memory ran out" in reason) == (status == "oom")


# Runs


def test_a_worker_gives_the_bytes_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    workers.write_texts(tmp_path, 3, sentences=6)
    suite = Suite(
        datasets=[str(tmp_path / "texts")], protocol={"chunk": 32}, device="cpu", audit="off"
    )
    found = []
    for name, count in (("here", None), ("there", 1)):
        with Progress(quiet=True) as progress:
            options: dict[str, Any] = {
                "name": "it",
                "results": tmp_path / name,
                "workers": asked_workers(count, None),
            }
            (path,) = list(run_suite(suite, progress, **options))
        found.append(workers.final(tmp_path / name))
    assert found[0] == found[1]
    run = load_run(path)
    assert run.manifest["workers"] == {"number": 1, "threads": 1}
    schema = json.loads((files("tta_bench") / "data/manifest.schema.json").read_text())
    assert set(run.manifest) <= set(schema["properties"])
    assert run.sessions[0]["workers"] == run.manifest["workers"]
    (share,) = run.summary["workers"]
    assert (share["worker"], share["device"], share["documents"]) == (0, "cpu", 3)
    assert share["tokens"] == run.summary["timed_tokens"] == sum(row.tokens for row in run.rows)
    assert share["seconds"] == pytest.approx(run.summary["seconds"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, and what one worker makes of them undisturbed in `one`."""
    folder = tmp_path_factory.mktemp("workers")
    workers.write_texts(folder, DOCUMENTS)
    workers.run(folder, *FAST, *QUIET, "--workers", 1, results="one")
    return folder


@slow
def test_three_workers_and_none_give_the_bytes_of_one(home: Path) -> None:
    workers.run(home, *METHODS, *QUIET, "--workers", 3, results="three")
    workers.run(home, *METHODS, *QUIET, results="none")
    three = workers.final(home / "three")
    assert len(three) == 2 * (2 + DOCUMENTS)
    assert workers.final(home / "none") == three
    one = workers.final(home / "one")
    assert {k: v for k, v in one.items() if "summary" not in k} == {
        k: v for k, v in three.items() if "summary" not in k
    }
    for path in (home / "three" / "it").iterdir():
        run = load_run(path)
        assert run.summary["valid"] is True
        assert sum(share["documents"] for share in run.summary["workers"]) == DOCUMENTS


def stored(home: Path, results: str) -> int:
    """Rows that are there by now."""
    found = (home / results).glob("it/*/rows.jsonl")
    return sum(len(file.read_bytes().splitlines()) for file in found)


def wait_for_rows(home: Path, results: str, rows: int) -> None:
    deadline = time.monotonic() + 120
    while stored(home, results) < rows:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@slow
@pytest.mark.parametrize("after", [1, 7])
def test_a_worker_that_is_killed_costs_nothing(home: Path, after: int) -> None:
    results = f"killed-{after}"
    command = workers.start(home, *FAST, "--workers", 2, results=results)
    wait_for_rows(home, results, after)
    victims = workers.workers_of(command.pid)
    os.kill(victims[after % len(victims)], signal.SIGKILL)
    output, _ = command.communicate(timeout=300)
    assert command.returncode == 0, output
    assert workers.final(home / results) == workers.final(home / "one")


@slow
def test_the_same_command_goes_on_where_the_driver_was_killed(home: Path) -> None:
    for rows in (1, 6):
        command = workers.start(home, *FAST, *QUIET, "--workers", 2, results="driver")
        wait_for_rows(home, "driver", rows)
        command.kill()
        command.communicate(timeout=60)
        deadline = time.monotonic() + 10
        while workers.processes_of(command.pid):
            assert time.monotonic() < deadline, "workers outlive their driver"
            time.sleep(0.05)
    workers.run(home, *FAST, *QUIET, "--workers", 2, results="driver")
    assert workers.final(home / "driver") == workers.final(home / "one")


@slow
@pytest.mark.parametrize("isolate", [False, True])
def test_ctrl_c_ends_every_process(home: Path, isolate: bool) -> None:
    results = f"interrupted-{isolate}"
    words = (*FAST, "--workers", 2, *(["--isolate"] if isolate else []))
    command = workers.start(home, *words, results=results)
    wait_for_rows(home, results, 2)
    os.killpg(command.pid, signal.SIGINT)
    began = time.monotonic()
    output, _ = command.communicate(timeout=60)
    while workers.processes_of(command.pid):
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    assert time.monotonic() - began < 10
    assert command.returncode == 130, output
    assert "Interrupted" in output
    assert "Traceback" not in output
    statuses = [json.loads(path.read_text())["status"] for path in (home / results).rglob("summ*")]
    assert "interrupted" in statuses
    if isolate:
        return
    workers.run(home, *words, *QUIET, results=results)
    assert workers.final(home / results) == workers.final(home / "one")


@slow
def test_a_document_that_ends_its_worker_twice_is_a_failed_row(tmp_path: Path) -> None:
    workers.write_texts(tmp_path, 5)
    (tmp_path / "texts" / "2.txt").write_text(workers.POISON)
    (tmp_path / "plugin.py").write_text(workers.poisoned("lambda: os._exit(3)"))
    words = ("--plugin", "plugin.py", "--method", "poisoned", "--method", "none", *REST)
    command = workers.start(tmp_path, *words)
    output, _ = command.communicate(timeout=300)
    assert command.returncode == 1, output
    (path,) = (tmp_path / "results" / "it").glob("poisoned-*")
    run = load_run(path)
    assert [row.status for row in run.rows] == ["done", "done", "error", "done", "done"]
    assert run.rows[2].reason == "its worker ended (exit code 3), 2 times"
    assert run.status == "error"
    (other,) = (tmp_path / "results" / "it").glob("none-*")
    assert [row.status for row in load_run(other).rows] == ["done"] * 5
    (tmp_path / "plugin.py").write_text(workers.poisoned("None"))
    workers.run(tmp_path, *words, results="clean")
    kept = (0, 1, 3, 4)
    poisoned = [workers.final(tmp_path / name, kept) for name in ("results", "clean")]
    by_name = [
        {(key.partition("-")[0], key.split()[1]): value for key, value in one.items()}
        for one in poisoned
    ]
    assert by_name[0] == by_name[1]


@slow
def test_a_method_that_cannot_be_set_up_ends_its_run_alone(tmp_path: Path) -> None:
    workers.write_texts(tmp_path, 3)
    (tmp_path / "plugin.py").write_text(
        "import os\nfrom tta_bench import Method, register\n\n"
        '@register("stillborn")\nclass Stillborn(Method):\n'
        "    def __init__(self, model, params, lanes):\n        os._exit(4)\n\n"
        "    def score(self, window):\n        return self.model.logits(window)\n"
    )
    words = ("--plugin", "plugin.py", "--method", "stillborn", "--method", "none", *REST)
    command = workers.start(tmp_path, *words)
    output, _ = command.communicate(timeout=300)
    assert command.returncode == 1, output
    (path,) = (tmp_path / "results" / "it").glob("stillborn-*")
    run = load_run(path)
    assert "it could not be set up: its worker ended (exit code 4)" in run.summary["reason"]
    assert [(row.index, row.status) for row in run.rows] == [(0, "error")]
    (other,) = (tmp_path / "results" / "it").glob("none-*")
    assert load_run(other).status == "complete"


@slow
def test_tune_tries_what_one_process_tries(home: Path) -> None:
    space = "dynamic-eval:lr=1e-5|1e-4,subset=mlp"
    choices = []
    for count in (1, 2):
        words = ["tune", "--dataset", "texts", "--limit", "2", "--max-tokens", "160"]
        words += ["--chunk", "64", "--device", "cpu"]
        words += ["--method", space, "--workers", count, "--results", f"tuned-{count}", "--json"]
        done = in_a_process(*words, cwd=home)
        assert done.returncode == 0, done.stderr
        (method,) = json.loads(done.stdout.strip().split("\n")[-1])["methods"]
        choices.append((method["chosen"], [trial["nll_per_token"] for trial in method["trials"]]))
    assert choices[0] == choices[1]


@slow
def test_errors_are_told_before_anything_runs(home: Path) -> None:
    words = ("--method", "none", "--workers", 2, "--device-map", "auto")
    command = workers.start(home, *words, results="wrong")
    output, _ = command.communicate(timeout=120)
    assert command.returncode == 2
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("Error: --device-map auto"), output
    assert not list((home / "wrong").glob("*/*"))
