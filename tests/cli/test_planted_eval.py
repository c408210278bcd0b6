"""`eval` on planted sentences: what is out of sight is not remembered, what is in it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Command
from slow import slow
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.report.recall import recall_tables
from tta_bench.store import load_group

WORDS = ["--dataset", "planted:least=128,most=512,each=2:builtin:stdlib", "--limit", "1"]
WORDS += ["--max-tokens", "1100", "--chunk", "64", "--audit", "off", "--name", "planted"]
METHODS = ["--method", "none", "--method", "window:context=256"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The group of both methods' runs on planted sentences."""
    results = tmp_path_factory.mktemp("planted") / "results"
    done = CliRunner().invoke(app, ["eval", *WORDS, *METHODS, "--results", str(results)])
    assert done.exit_code == 0, done.output
    return results / "planted"


@slow
def test_a_window_remembers_as_far_as_it_reaches(tta_bench: Command, planted: Path) -> None:
    folder = planted.parents[1]
    tables, sentences = recall_tables(load_group(planted))
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

    shown = tta_bench("show", "planted", "--json", cwd=folder)
    rows = {row["method"]: row for row in json.loads(shown.stdout)["rows"]}
    assert 0 < rows[window]["accuracy"] < 1
    for column, sign in (("answer_gain", 1), ("answer_nll", -1), ("answer_accuracy", 1)):
        assert sign * (rows[window][column] - rows["none"][column]) > 0
    chosen = tta_bench("show", "planted", "--columns", "accuracy", "--format", "csv", cwd=folder)
    assert chosen.stdout.splitlines()[0].split(",")[:2] == ["method", "accuracy"]
    words = "export", "planted", "--format", "csv", "--metric", "accuracy"
    exported = tta_bench(*words, cwd=folder).stdout
    assert {"top1", "run_accuracy"} <= set(exported.splitlines()[0].split(","))


@slow
def test_workers_store_the_same_bytes(tta_bench: Command, tmp_path: Path, planted: Path) -> None:
    done = tta_bench("eval", *WORDS, *METHODS[:2], "--workers", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    group = tmp_path / "results" / "planted"
    files = sorted(path.relative_to(group) for path in group.glob("none-*/nll/*.npz"))
    assert len(files) == 2
    for file in files:
        assert (group / file).read_bytes() == (planted / file).read_bytes()
