"""Columns of grades: there where documents are of an oracle: stream, a dash elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from oracle_runs import store_oracle_run
from stored_runs import store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.store import load_group
from tta_bench.tables.summary import summary_tables

SHOWN = ["share", "share_learning", "share_late", "regret"]


def columns(group: Path, metrics: tuple[str, ...] = ()) -> tuple[list[str], list[list[str]]]:
    """The columns of grades in a table, and their cells by row."""
    (table,) = summary_tables(load_group(group), metrics=metrics)
    found = [c for c in table.columns if c.title and c.key.startswith(("share", "regret"))]
    return [c.key for c in found], [[c.show(row) for c in found] for row in table.rows]


def test_grades_are_columns_of_their_streams_alone(tmp_path: Path) -> None:
    group = tmp_path / "streams"
    store_oracle_run(group, "none", lambda i, known, _: known + 2.0)
    store_oracle_run(group, "ngram", lambda i, known, _: known + 0.5)
    keys, rows = columns(group)
    assert keys == SHOWN
    cells = dict(zip(("none", "ngram"), rows, strict=True))
    assert cells["none"] == ["—", "—", "—", "512"]
    assert cells["ngram"][0].replace("\u200b", "").split("±")[0].strip() == "0.750"
    assert cells["ngram"][2:] == ["0.750", "128"]


def test_elsewhere_there_is_a_dash_and_the_reason(tmp_path: Path) -> None:
    store_run(tmp_path / "texts")
    assert columns(tmp_path / "texts") == ([], [[]])
    assert columns(tmp_path / "texts", ("share",)) == (["share"], [["—"]])
    done = CliRunner().invoke(
        app, ["show", "texts", "--metric", "share", "--results", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "is known of oracle: streams alone" in " ".join(done.stdout.split())


def test_json_has_every_number(tmp_path: Path) -> None:
    store_oracle_run(tmp_path / "g", "none", lambda i, known, _: known + 2.0 + i)
    store_oracle_run(tmp_path / "g", "ngram", lambda i, known, _: known + 0.5)
    done = CliRunner().invoke(app, ["show", "g", "--json", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rows = {row["method"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["ngram"]["share_ci95_low"] < rows["ngram"]["share"] < 1
    assert rows["ngram"]["share"] == pytest.approx(2.5 / 3, abs=1e-6)
    assert rows["ngram"]["regret_learning"] < rows["ngram"]["regret"]
    assert rows["none"]["share"] is None


def test_runs_that_cannot_be_graded_say_why(tmp_path: Path) -> None:
    store_oracle_run(tmp_path / "g", "none", lambda i, known, _: known + 2.0, sha256="f" * 64)
    (table,) = summary_tables(load_group(tmp_path / "g"), metrics=["share"])
    assert table.rows[0]["regret"] is None
    assert any("use the version of tta-bench that made the run" in note for note in table.notes)
