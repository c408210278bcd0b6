"""Runs that break off anywhere are taken up, and end as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored_runs
from slow import slow
from stored_runs import COSTS, make_losses, make_manifest, make_row, store_run
from typer.testing import CliRunner

from tta_bench.errors import BenchError, UsageError
from tta_bench.store import Run, RunWriter, is_locked, is_whole, load_run, run_folder
from tta_bench.store import files as files_module

DOCUMENTS = 4
COMPLETE = {"status": "complete"} | COSTS


def work(group: Path, rerun: Any = "missing", documents: int = DOCUMENTS, **manifest: Any) -> Path:
    """What `evaluate` does with a run, without a model."""
    with RunWriter.resume(group, make_manifest(**manifest), rerun) as writer:
        for index in range(documents):
            if index not in writer.kept:
                writer.append(make_row(index), make_losses(index))
        writer.finish(COMPLETE)
    return writer.path


def outcome(run: Run) -> tuple[Any, ...]:
    """All that must not depend on where a run broke off."""
    rows = [dataclasses.replace(row, seconds=0, session=0) for row in run.rows]
    vectors = [run.nll(row).tobytes() for row in run.rows]
    return run.status, rows, vectors, run.summary["documents"], run.warnings


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(work(tmp_path_factory.mktemp("undisturbed")))


HERE = os.pathsep.join([str(Path(__file__).parent), str(Path(stored_runs.__file__).parent)])
"""Where a process of its own finds this file and what the tests share."""

# Killed


KILLED_WORKER = """
import os, signal, sys
sys.path[:0] = sys.argv[3].split(os.pathsep)
from pathlib import Path
calls, last = 0, int(sys.argv[2])

def at(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == last:  # as if the machine were switched off, in the middle of a write
            if name == "write" and len(arguments[1]) > 10:
                real(arguments[0], arguments[1][: last * 7 % len(arguments[1])])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(os, name, call)

from test_resume import work
for name in ("write", "fsync", "replace", "rename", "open", "unlink"):
    at(name)
work(Path(sys.argv[1]))
print(calls)
"""


def killed_at(group: Path, call: int) -> subprocess.CompletedProcess[str]:
    """A worker that is killed at its n-th call to the system: between any two, or in a write."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED_WORKER,
            str(group),
            str(call),
            HERE,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_run_killed_at_20_random_moments_ends_as_if_undisturbed(
    tmp_path: Path, undisturbed: Run
) -> None:
    whole = killed_at(tmp_path / "count", 10**9)
    assert whole.returncode == 0, whole.stderr
    calls = int(whole.stdout)
    assert calls > 40
    moments = random.Random(5).sample(range(1, calls + 1), 20)
    broken = 0
    for moment in moments:
        group = tmp_path / str(moment)
        done = killed_at(group, moment)
        assert done.returncode == -signal.SIGKILL, done.stderr
        path = run_folder(group, make_manifest())
        if (path / "manifest.json").exists():
            left = load_run(path)  # readable, and every row that is there is right
            broken += left.status == "unfinished"
            for row in left.rows:
                assert np.array_equal(left.nll(row), make_losses(row.index))
        assert outcome(load_run(work(group))) == outcome(undisturbed)
        assert files_of(path) == files_of(undisturbed.path)
    assert broken >= 10


def test_a_run_killed_again_and_again_gets_to_its_end(tmp_path: Path, undisturbed: Run) -> None:
    for moment in (30, 24, 28, 22, 26):
        assert killed_at(tmp_path, moment).returncode == -signal.SIGKILL
    run = load_run(work(tmp_path))
    assert outcome(run) == outcome(undisturbed)
    assert len(run.sessions) > 3
    assert run.sessions[0]["status"] == "killed"


# What is done again


def spoil(path: Path, change: Any) -> None:
    rows = path / "rows.jsonl"
    rows.write_bytes(change(rows.read_bytes()))
    (path / "summary.json").unlink()


def test_what_is_there_is_kept_and_what_is_missing_is_done(tmp_path: Path) -> None:
    path = work(tmp_path)
    assert is_whole(path, make_manifest(lanes=1, device="cuda:0"), "missing")
    spoil(path, lambda data: b"".join(data.splitlines(keepends=True)[1:3]))
    assert not is_whole(path, make_manifest(), "missing")
    before = {row.index: row for row in load_run(path).rows}
    with RunWriter.resume(tmp_path, make_manifest(lanes=2)) as writer:
        assert writer.kept == before
        for index in (3, 0):
            writer.append(make_row(index), make_losses(index))
        writer.finish(COMPLETE | {"lanes": 2})
    run = load_run(path)
    assert [row.session for row in run.rows] == [1, 0, 0, 1]
    assert [session["lanes"] for session in run.sessions] == [4, 2]


def test_failed_documents_are_repeated_when_asked(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, make_manifest()) as writer:
        writer.append(make_row(0), make_losses(0))
        writer.append(make_row(1, "oom", reason="memory"))
        writer.append(make_row(2, "skipped", reason="short"))
        writer.append(make_row(3, "diverged", reason="nan"))
        writer.finish(COMPLETE | {"status": "oom"})
    assert is_whole(writer.path, make_manifest(), "missing")
    assert not is_whole(writer.path, make_manifest(), "failed")
    with RunWriter.resume(tmp_path, make_manifest()) as again:
        assert sorted(again.kept) == [0, 1, 2, 3]
    with RunWriter.resume(tmp_path, make_manifest(), "failed") as again:
        assert sorted(again.kept) == [0, 2]
        assert [row.index for row in load_run(writer.path).rows] == [0, 2]


def test_rerun_all_starts_again_whatever_state_the_run_is_in(
    tmp_path: Path, undisturbed: Run
) -> None:
    path = work(tmp_path, documents=DOCUMENTS)
    for name in ("manifest.json", "rows.jsonl", "sessions.jsonl", "summary.json"):
        (path / name).write_text("{\n")
        with pytest.raises(BenchError, match=rf"{name} .*--rerun all starts this run again"):
            RunWriter.resume(tmp_path, make_manifest())
        assert not is_whole(path, make_manifest(), "all")
        assert outcome(load_run(work(tmp_path, "all"))) == outcome(undisturbed)
        assert len(load_run(path).sessions) == 1


def test_a_damaged_file_of_losses_is_named_and_made_again(tmp_path: Path, undisturbed: Run) -> None:
    path = work(tmp_path)
    vector = path / "nll/00002.npz"
    content = bytearray(vector.read_bytes())
    content[len(content) // 2] ^= 1
    vector.write_bytes(content)
    (path / "nll/00001.npz").unlink()  # not published, which is no damage
    with pytest.raises(BenchError, match=r"00002\.npz is damaged: its hash"):
        load_run(path).nll(load_run(path).rows[2])
    with RunWriter.resume(tmp_path, make_manifest()) as writer:
        assert sorted(writer.kept) == [0, 1, 3]
        assert "00002.npz is damaged; doc2.py is read again" in writer.notes[0]


def test_without_a_reset_documents_depend_on_those_before(tmp_path: Path) -> None:
    protocol = make_manifest()["protocol"] | {"reset": "never"}
    path = work(tmp_path, protocol=protocol)
    assert is_whole(path, make_manifest(protocol=protocol), "missing")
    spoil(path, lambda data: data.splitlines(keepends=True)[0])
    with RunWriter.resume(tmp_path, make_manifest(protocol=protocol)) as writer:
        assert writer.kept == {}
        assert load_run(path).rows == ()


def test_a_run_of_schema_1_is_taken_up(tmp_path: Path) -> None:
    """As written before there were checksums, sessions and hashes of losses."""
    path = work(tmp_path)
    manifest = {k: v for k, v in make_manifest().items() if k != "crc32"} | {"schema_version": 1}
    (path / "manifest.json").write_text(json.dumps(manifest))
    since = ("nll_sha256", "session", "crc32")
    lines = [json.loads(line) for line in (path / "rows.jsonl").read_text().splitlines()[:3]]
    old = [json.dumps({k: v for k, v in line.items() if k not in since}) for line in lines]
    (path / "rows.jsonl").write_text("\n".join(old) + "\n")
    (path / "sessions.jsonl").unlink()
    summary = {"schema_version": 1, "status": "interrupted", "documents": {"done": 3}}
    (path / "summary.json").write_text(json.dumps(summary | {"seconds": 1.5}))
    assert load_run(path).sessions == ()
    run = load_run(work(tmp_path))
    assert run.status == "complete"
    assert [row.session for row in run.rows] == [0, 0, 0, 1]
    assert run.cost("seconds") == 1.5 + COSTS["seconds"]


def test_another_run_of_the_same_folder_name_is_refused(tmp_path: Path) -> None:
    path = work(tmp_path)
    other = make_manifest()
    other["key"] = other["key"][:11] + "0" * 8
    assert run_folder(tmp_path, other) == path
    for call in (
        lambda: is_whole(path, other, "missing"),
        lambda: RunWriter.resume(tmp_path, other),
    ):
        with pytest.raises(UsageError, match="holds another run"):
            call()


# What it cost


def test_times_and_tokens_add_up_and_peaks_do_not(tmp_path: Path) -> None:
    costs = [
        {"seconds": 10.0, "timed_tokens": 100, "peak_process_bytes": 7, "step_seconds_median": 0.5},
        {"seconds": 2.0, "timed_tokens": 140, "peak_process_bytes": 5, "step_seconds_median": None},
    ]
    for index, cost in enumerate(costs):
        device = ("cpu", "mps")[index]
        with RunWriter.resume(tmp_path, make_manifest(device=device)) as writer:
            writer.append(make_row(index), make_losses(index))
            writer.finish(COMPLETE | cost | {"tokens_per_second": 1.0})
    run = load_run(writer.path)
    assert run.cost("seconds") == 12.0
    assert run.cost("tokens_per_second") == 20.0
    assert run.cost("peak_process_bytes") == 7
    assert run.cost("step_seconds_median") == 0.5
    assert run.summary["sessions"] == 2
    assert "several devices" in run.warnings[0]

    def is_interrupted() -> None:
        with RunWriter.resume(tmp_path, make_manifest()) as writer:
            writer.append(make_row(2), make_losses(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_interrupted()
    run = load_run(writer.path)
    assert run.status == "interrupted"
    assert run.cost("seconds") == 12.5  # of a session that broke off, that of its documents


# Two processes


def test_a_run_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; sys.path[:0] = sys.argv[2].split(os.pathsep)\n"
        "from test_resume import *\n"
        "writer = RunWriter.resume(Path(sys.argv[1]), make_manifest())\n"
        "writer.append(make_row(0), make_losses(0)); print('ready', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), HERE],
        stdout=subprocess.PIPE,
    )
    path = run_folder(tmp_path, make_manifest())
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        assert is_locked(path)
        for rerun in ("missing", "all"):
            with pytest.raises(UsageError, match=rf"another process \(pid {other.pid}\); wait"):
                work(tmp_path, rerun)
        assert len(load_run(path).rows) == 1  # nothing was touched, and it can be read
        store_run(tmp_path, "fwl")  # a sibling
    finally:
        other.kill()
        other.wait()
    assert (path / ".lock").exists()  # of a dead process: no obstacle
    assert not is_locked(path)
    assert load_run(work(tmp_path)).status == "complete"
    assert not (path / ".lock").exists()


def test_the_lock_goes_with_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise BenchError("the disk is full")

    monkeypatch.setattr(files_module, "write_atomically", full)
    monkeypatch.setattr("tta_bench.store.writer.write_atomically", full)
    with pytest.raises(BenchError):
        RunWriter.create(tmp_path, make_manifest())
    monkeypatch.undo()
    path = work(tmp_path)
    assert not is_locked(path)


# Any damage


def test_a_flipped_bit_anywhere_is_refused_or_means_the_same(tmp_path: Path) -> None:
    whole = load_run(work(tmp_path / "whole", documents=2))
    folder = shutil.copytree(whole.path, tmp_path / "copy")
    chance = random.Random(3)
    for name in ("manifest.json", "rows.jsonl", "summary.json", "sessions.jsonl"):
        content = (whole.path / name).read_bytes()
        refused = 0
        for _ in range(80):
            damaged = bytearray(content)
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            (folder / name).write_bytes(damaged)
            try:
                run = load_run(folder)
            except BenchError as error:
                assert name in str(error) or "rows.jsonl" in str(error)  # noqa: PT017
                refused += 1
                continue
            same = (run.manifest, run.summary, run.sessions, run.rows)
            assert same == (whole.manifest, whole.summary, whole.sessions, whole.rows) or (
                run.warnings and run.rows == whole.rows[: len(run.rows)]
            )
        assert refused > 60, name
        (folder / name).write_bytes(content)


# The command


PLUGIN = """
import torch
from tta_bench import Method, register

@register("counts")
class Counts(Method):
    family = "output"
    def init_state(self):
        return {"counts": torch.zeros(self.model.vocab_size, device=self.model.device)}
    def score(self, window):
        return self.model.logits(window).full() + 0.3 * self.state["counts"].log1p()[:, None]
    def adapt(self, window, targets, nll):
        self.state["counts"].scatter_add_(1, targets, window.mask.float())
"""
TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. " * 25


def tta_bench(folder: Path, *words: object, kill_after: int | None = None) -> tuple[int, str, str]:
    """Runs `tta-bench eval` on five texts; killed as soon as that many rows are there."""
    (folder / "texts").mkdir(exist_ok=True)
    (folder / "counts.py").write_text(PLUGIN)
    for i in range(5):
        (folder / "texts" / f"{i}.txt").write_text(f"Number {i}. {TEXT}")
    process = subprocess.Popen(
        [sys.executable, "-m", "tta_bench", "eval", "--dataset", "texts", "--chunk", "32",
         "--plugin", "counts.py", "--method", "counts", "--audit", "off", "--json",
         *map(str, words)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while kill_after is not None and process.poll() is None:
        assert time.monotonic() < deadline
        files = folder.glob("results/*/*/rows.jsonl")
        if sum(file.read_bytes().count(b"\n") for file in files) >= kill_after:
            process.kill()
        time.sleep(0.03)
    output, errors = process.communicate(timeout=100)
    return process.returncode, output, errors


def stored(folder: Path) -> Run:
    (path,) = folder.glob("results/*/*/manifest.json")
    return load_run(path.parent)


@slow
def test_eval_that_was_killed_is_taken_up_by_the_same_command(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert tta_bench(whole)[0] == 0
    for rows in (1, 3):
        assert tta_bench(cut, kill_after=rows)[0] == -signal.SIGKILL
    assert stored(cut).status == "unfinished"
    kept = len(stored(cut).rows)
    code, output, errors = tta_bench(cut)
    assert code == 0, errors
    assert f"{kept} of 5 documents are kept" in errors
    first, second = stored(whole), stored(cut)
    assert first.path.relative_to(whole) == second.path.relative_to(cut)
    assert outcome(first) == outcome(second)
    assert first.cost("flops_per_token") == second.cost("flops_per_token")
    (row,) = json.loads(output.strip().split("\n")[-1])["rows"]
    assert row["nll"] == sum(row.nll or 0.0 for row in first.rows)
    before = {name: (second.path / name).read_bytes() for name in files_of(second.path)}
    code, again, errors = tta_bench(cut, "--rerun", "failed")
    assert code == 0
    assert "nothing to do" in errors
    assert again == output
    assert {name: (second.path / name).read_bytes() for name in files_of(second.path)} == before
    # The last document again, beside an idle lane: the sums agree, as far as kernels round alike.
    spoil(second.path, lambda data: b"".join(data.splitlines(keepends=True)[:-1]))
    assert tta_bench(cut, "--lanes", 2)[0] == 0
    third = stored(cut)
    assert third.summary["sessions"] == 4
    for one, other in zip(first.rows, third.rows, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-5)


def test_the_default_suite_finds_its_runs_again_and_not_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tta_bench.cli.main import app
    from tta_bench.evaluation.suite import DEFAULT_SUITE

    calls = []

    def run_suite(*arguments: Any, **options: Any) -> Any:
        calls.append(options)
        return iter(())

    monkeypatch.setattr("tta_bench.evaluation.execute.run_suite", run_suite)
    monkeypatch.chdir(tmp_path)
    assert DEFAULT_SUITE == "quickstart"
    Path("My Suite.yaml").write_text("datasets: builtin:pydoc\n")
    for words in ([], ["--suite", "My Suite.yaml"], ["--dataset", "x", "--rerun", "failed"]):
        assert CliRunner().invoke(app, ["eval", *words]).exit_code == 0
    assert [(call["name"], call["base"], call["rerun"]) for call in calls] == [
        (None, "quickstart", "missing"),
        (None, "my-suite", "missing"),
        (None, None, "failed"),
    ]
