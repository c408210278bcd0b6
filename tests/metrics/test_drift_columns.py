"""Columns and curves of streams that are never reset; elsewhere there are none."""

import json

import pytest
from drift_runs import store_stream
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.report.build import build_report
from tta_bench.store import load_group
from tta_bench.tables.summary import summary_tables

NAMES = ("forward_transfer", "retention", "return_gain", "return_gain_fresh")
TEXTS = "abcab"
CARRIED = [[4.0, 4.0], [3.0, 2.0], [5.0, 5.0], [3.0, 3.0], [3.0, 1.5]]
FRESH = [[4.0, 4.0], [4.0, 3.0], [5.0, 4.0], [4.0, 4.0], [4.0, 3.0]]


@pytest.fixture
def group(tmp_path):
    folder = tmp_path / "g"
    for spec, losses, probes in (
        ("none", FRESH, [30.0] * 5),
        ("fwl", CARRIED, [29.0, 28.0, 33.0, 31.0, 32.0]),
    ):
        store_stream(folder, losses, spec, texts=TEXTS, probes=probes, fresh_probe=30.0)
        store_stream(folder, FRESH, spec, texts=TEXTS, reset="document")
    return folder


def columns(table):
    return [column.key for column in table.columns if column.title and column.key in NAMES]


def test_the_columns_are_in_the_table_of_the_stream_alone(group):
    tables = summary_tables(load_group(group))
    never = next(table for table in tables if "never" in table.title)
    (other,) = (table for table in tables if table is not never)
    assert columns(never) == list(NAMES)
    assert columns(other) == []
    cells = {
        row["name"]: [c.show(row) for c in never.columns if c.title and c.key in NAMES]
        for row in never.rows
    }
    assert cells["none"] == ["+0.0000"] * 4
    assert cells["fwl"] == ["+0.6875", "-0.2000", "+0.6250", "+1.1250"]
    notes = " ".join(never.notes)
    assert "4 documents: an interval over blocks needs 40" in notes
    assert "on book.txt, read after the last document" in notes


def test_without_probe_and_fresh_readings_the_table_says_what_makes_them(tmp_path):
    store_stream(tmp_path, CARRIED)
    (table,) = summary_tables(load_group(tmp_path), metrics=["retention"])
    assert columns(table) == ["forward_transfer", "retention"]
    notes = " ".join(table.notes)
    assert "--fresh makes it" in notes
    assert "no retention: there is no probe, or it could not be read; --probe names one" in notes


def test_curves_of_the_stream_are_shown(group):
    done = CliRunner().invoke(
        app, ["show", "g", "--curve", "--json", "--results", str(group.parent)]
    )
    assert done.exit_code == 0, done.output
    curves = json.loads(done.stdout)["curves"]
    found = {(row["of"], row["method"]): row for row in curves}
    assert found["loss over the stream", "fwl"]["from_5"] == 2.25
    assert found["forward transfer over the stream", "fwl"]["from_2"] == 1.0
    assert found["retention over the stream", "fwl"]["from_5"] == pytest.approx(-0.2)
    assert "from_1" not in found["forward transfer over the stream", "fwl"]


def test_the_report_draws_the_stream(group):
    def reopen(manifest):
        from tta_bench.errors import BenchError

        raise BenchError("there are no documents.")

    report = build_report(load_group(group), reopen=reopen)
    by_reset = {s.runs[0].manifest["protocol"]["reset"]: s for s in report.settings}
    assert [figure.title for figure in by_reset["never"].drift] == [
        "Loss over the stream",
        "Forward transfer over the stream",
        "Retention over the stream",
    ]
    assert by_reset["document"].drift == ()
    kept = next(f for f in by_reset["never"].drift if f.title.startswith("Retention"))
    (line,) = (series for series in kept.series if series.label == "fwl")
    assert line.y == pytest.approx((0.1, 0.2, -0.3, -0.1, -0.2))
