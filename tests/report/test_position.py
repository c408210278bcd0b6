"""Curves by position as tables: the numbers are those of the losses, and fit a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import make_row, store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.errors import BenchError, UsageError
from tta_bench.report.position import position_tables, sparkline
from tta_bench.store import Run
from tta_bench.tables import Table

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    for spec, gain in (("none", 0.0), ("fwl", 0.1)):
        store_run(results / "mine", spec, gain)
    return results


@pytest.fixture
def runs(folder: Path) -> list[Run]:
    from tta_bench.store import load_group

    return load_group(folder / "mine")


def show(*words: object, **options: Any) -> str:
    done = CliRunner().invoke(app, ["show", *map(str, words)], catch_exceptions=False, **options)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_blocks_rise_with_their_values() -> None:
    assert sparkline([0.0, 1.0, 2.0, 7.0], 0.0, 7.0) == "▁▂▃█"
    assert sparkline([-9.0, 0.0, 7.0, 99.0], 0.0, 7.0) == "▁▁██"
    assert sparkline([1.0, 1.0], 1.0, 1.0) == "▁▁"


def test_numbers_are_means_over_the_positions_of_a_column(runs: list[Run]) -> None:
    (losses, gains), sentences = position_tables(runs)
    assert sentences == []
    assert losses.title.endswith(" · loss by position")
    assert gains.title.endswith(" · gain over none by position")
    vectors = [[run.nll(row) for row in run.rows] for run in runs]
    for row, own in zip(losses.rows, vectors, strict=True):
        early = np.concatenate([vector[:3] for vector in own])  # positions 1 to 3
        assert row["from_1"] == pytest.approx(early.mean(), rel=1e-6)
        assert sum(bucket["tokens"] for bucket in row["buckets"]) == sum(map(len, own))
        assert [bucket["low"] for bucket in row["buckets"]] == [1, 4, 16, 64]
        assert len(row["curve"]) == 8, "a block for each doubling, up to 130"
    (row,) = gains.rows
    assert row["method"] == "fwl"
    assert all(
        bucket["nats_per_token"] == pytest.approx(0.115, abs=0.02) for bucket in row["buckets"]
    )
    low, high = row["buckets"][0]["ci95"]
    cell = next(column for column in gains.shown if column.key == "from_1").cell(row)
    assert cell.replace("\u200b", "") == f"{row['from_1']:+.2f} ±{(high - low) / 2:.2f}"


def test_a_gain_is_the_baselines_loss_minus_the_methods(folder: Path, runs: list[Run]) -> None:
    (_, gains), _ = position_tables(runs, "fwl")
    assert "gain over fwl" in gains.title
    assert all(bucket["nats_per_token"] < 0 for bucket in gains.rows[0]["buckets"])


def test_the_command_adds_curves_to_the_summary(folder: Path) -> None:
    narrow = show("mine", "--curve", "--results", folder, env={"COLUMNS": "80"})
    assert max(map(len, narrow.splitlines())) <= 80
    assert "smollm2-135m on builtin:stdlib · loss by position" in narrow
    assert "low is better" in narrow
    assert "high is better" in narrow
    markdown = show("mine", "--curve", "--format", "markdown", "--results", folder)
    assert "| method | curve | 1 | 4 | 16 | 64 |" in markdown
    whole = json.loads(show("mine", "--curve", "--json", "--results", folder))
    assert [(row["of"], row["method"]) for row in whole["curves"]] == [
        ("loss", "none"),
        ("loss", "fwl"),
        ("gain", "fwl"),
    ]
    assert len(whole["rows"]) == 2
    assert "curves" not in json.loads(show("mine", "--json", "--results", folder))


def test_an_old_terminal_gets_other_blocks(folder: Path) -> None:
    from tta_bench.tables.column import in_ascii

    (losses, _), _ = position_tables(load(folder))
    for column in map(in_ascii, losses.shown):
        for row in losses.rows:
            assert column.cell(row).isascii()


def load(folder: Path) -> list[Run]:
    from tta_bench.store import load_group

    return load_group(folder / "mine")


def test_without_losses_there_is_no_curve(tmp_path: Path) -> None:
    rows = tuple(make_row(i, nll=200.0) for i in range(2))
    store_run(tmp_path / "bare", documents=0, extra=rows)
    with pytest.raises(BenchError, match=r"there is no curve to show: none has no curves: "):
        show("bare", "--curve", "--results", tmp_path)
    store_run(tmp_path / "bare", "fwl", 0.1, documents=2)
    done = CliRunner().invoke(app, ["show", "bare", "--curve", "--results", str(tmp_path)])
    assert done.exit_code == 0
    assert "Left out: none has no curves: " in done.stderr
    tables: list[Table] = position_tables_of(tmp_path)
    assert [table.title.split(" · ")[1] for table in tables] == ["loss by position"]


def position_tables_of(folder: Path) -> list[Table]:
    from tta_bench.store import load_group

    return position_tables(load_group(folder / "bare"))[0]


def test_a_table_of_speed_has_no_curve() -> None:
    with pytest.raises(UsageError, match="no metrics, no curves"):
        show("speed-cpu", "--curve", "--results", RESULTS)
