"""Two fresh runs give the same bits, and `--deterministic` is set, recorded and put back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from slow import slow
from stored_runs import make_manifest

from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.evaluation.execute import run_suite
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.suite import Suite
from tta_bench.store import load_group, load_run

TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. " * 4


QUICK = ("--quiet", "--audit", "off")
"""Losses are compared here; the audit reads nothing into them."""


def eval_in_its_own_process(folder: Path, *options: str) -> dict[str, bytes]:
    """The files of losses that `tta-bench eval` leaves, by method and file."""
    done = subprocess.run(
        [sys.executable, "-m", "tta_bench", "eval", "--name", "it", *QUICK, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    group = folder / "results/it"
    return {path.relative_to(group).as_posix(): path.read_bytes() for path in group.rglob("*.npz")}


@slow
def test_two_fresh_runs_of_the_quickstart_give_identical_files_of_losses(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        # Two chunks: adapting shows in the second.
        short = ("--limit", "1", "--chunk", "64", "--max-tokens", "128")
        found.append(eval_in_its_own_process(tmp_path / name, *short))
    assert len(found[0]) == 6
    assert found[0] == found[1]


@slow
def test_two_deterministic_runs_give_identical_files_of_losses(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    methods = ["none", "dynamic-eval", "fwl", "neural-cache"]
    suite = Suite(
        datasets=[str(tmp_path / "text.txt")],
        methods=methods,
        protocol={"chunk": 32},
        deterministic=True,
        audit="off",
    )
    found = []
    for name in ("one", "other"):
        quiet = Progress(quiet=True)
        paths = list(run_suite(suite, quiet, name=name, results=tmp_path))
        runs = load_group(tmp_path / name)
        assert [run.status for run in runs] == ["complete"] * len(methods)
        assert all(run.manifest["deterministic"] is True for run in runs)
        found.append([(path / "nll/00000.npz").read_bytes() for path in paths])
    assert found[0] == found[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_all_that_is_set_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.benchmark is False
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark is True
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "the user's own stays"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_it_is_recorded_and_no_part_of_the_key() -> None:
    plain, held = make_manifest(), make_manifest(deterministic=True)
    assert (plain["deterministic"], held["deterministic"]) == (False, True)
    assert plain["key"] == held["key"]


@slow
def test_a_run_that_is_there_without_it_is_not_passed_off_as_deterministic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    suite = Suite(datasets=[str(tmp_path / "text.txt")], protocol={"chunk": 32}, audit="off")
    options = {"name": "it", "results": tmp_path}
    for _ in run_suite(suite, Progress(quiet=True), **options):
        pass
    suite.deterministic = True
    (path,) = run_suite(suite, Progress(quiet=True), **options)
    assert "--rerun all" in capsys.readouterr().err
    assert load_run(path).manifest["deterministic"] is False
    (path,) = run_suite(suite, Progress(quiet=True), rerun="all", **options)
    assert load_run(path).manifest["deterministic"] is True
