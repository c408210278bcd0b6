"""`eval` on planted sentences: what is out of sight is not remembered, what is in it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Command
from slow import slow

from tta_bench.report.recall import recall_tables
from tta_bench.store import load_group

WORDS = ["--dataset", "planted:least=128,most=512,each=2:builtin:stdlib", "--limit", 1]
WORDS += ["--max-tokens", 1100, "--chunk", 64, "--audit", "off", "--name", "planted"]
METHODS = ["--method", "none", "--method", "window:context=256"]


def read(tta_bench: Command, folder: Path, *words: object) -> Path:
    """The group of runs on planted sentences."""
    done = tta_bench("eval", *WORDS, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "planted"


@slow
def test_a_window_remembers_as_far_as_it_reaches(tta_bench: Command, tmp_path: Path) -> None:
    group = read(tta_bench, tmp_path, *METHODS)
    tables, sentences = recall_tables(load_group(group))
    assert sentences == []
    loss, exact, gain = ({row["method"]: row["lags"] for row in table.rows} for table in tables)
    window = "window:context=256"
    assert list(gain[window]) == [128, 256, 512]
    assert gain[window][128]["value"] > 2
    assert exact[window][128]["value"] > exact[window][128]["control"] + 0.3
    assert gain[window][512]["value"] == pytest.approx(0, abs=0.3)
    assert loss[window][128]["control"] > 5
    for lag in gain["none"].values():
        assert lag["value"] == pytest.approx(0, abs=0.3)

    shown = tta_bench("show", "planted", "--json", cwd=tmp_path)
    rows = {row["method"]: row for row in json.loads(shown.stdout)["rows"]}
    assert 0 < rows[window]["accuracy"] < 1
    for column, sign in (("answer_gain", 1), ("answer_nll", -1), ("answer_accuracy", 1)):
        assert sign * (rows[window][column] - rows["none"][column]) > 0
    chosen = tta_bench("show", "planted", "--columns", "accuracy", "--format", "csv", cwd=tmp_path)
    assert chosen.stdout.splitlines()[0].split(",")[:2] == ["method", "accuracy"]
    words = "export", "planted", "--format", "csv", "--metric", "accuracy"
    exported = tta_bench(*words, cwd=tmp_path).stdout
    assert {"top1", "run_accuracy"} <= set(exported.splitlines()[0].split(","))


@slow
def test_workers_store_the_same_bytes(tta_bench: Command, tmp_path: Path) -> None:
    groups = []
    for name, words in (("one", METHODS[:2]), ("two", (*METHODS[:2], "--workers", 2))):
        (tmp_path / name).mkdir()
        groups.append(read(tta_bench, tmp_path / name, *words))
    files = sorted(path.relative_to(groups[0]) for path in groups[0].glob("*/nll/*.npz"))
    assert len(files) == 2
    for file in files:
        one, two = ((group / file).read_bytes() for group in groups)
        assert one == two
