"""`tta-bench compare` on stored runs, those committed among them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from stored_runs import PROTOCOL, store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.errors import UsageError

RESULTS = Path(__file__).parents[2] / "results"


def compare(*arguments: str | Path, results: Path = RESULTS) -> str:
    command = ["compare", *map(str, arguments), "--results", str(results)]
    done = CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    return done.stdout


def tables(*arguments: str | Path, results: Path = RESULTS) -> list[dict]:
    return json.loads(compare(*arguments, "--format", "json", results=results))["tables"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for spec, gain in (("none", 0.0), ("fwl", 0.1), ("neural-cache", 0.3)):
        store_run(tmp_path / "mine", spec, gain, documents=12)
    return tmp_path


def test_other_protocols_make_another_table_that_names_the_difference() -> None:
    first, second = tables("smollm2-stdlib-gpu", "smollm2-stdlib-gpu-context-2x")
    assert "context 0" in first["title"]
    assert "context 1024" in second["title"]
    by_method = {row["method"]: row for row in first["rows"]}
    assert by_method["dynamic-eval:lr=0.0001"]["tier"] == 1
    assert by_method["neural-cache"]["tier"] == by_method["dynamic-eval:optimizer=sgd"]["tier"]
    assert by_method["none"]["p_holm"] is None
    unsure = {"none", "dynamic-eval:optimizer=sgd,lr=0.03"}  # the baseline; one that diverged
    assert all(row["p_holm"] < 0.01 for name, row in by_method.items() if name not in unsure)
    assert any(note.startswith("tier: ") for note in first["notes"])


def test_two_runs_of_one_method_show_what_changed() -> None:
    names = ("smollm2-stdlib-gpu/none-b3c586c6", "smollm2-stdlib-gpu-context-2x/none-48da28b0")
    *_, manifest, documents = tables(*names)
    assert {row["field"]: (row["first"], row["second"]) for row in manifest["rows"]} == {
        "protocol.context": ("0", "1024"),
        "protocol.context_mode": ("none", "recompute"),
    }
    assert len(documents["rows"]) == 24
    for row in documents["rows"]:
        assert row["change"] == pytest.approx(row["second"] - row["first"])
    assert documents["notes"][0].startswith("second minus first: -0.21")


def test_sort_and_baseline(results: Path) -> None:
    (table,) = tables("mine", "--sort", "perplexity", results=results)
    assert [row["method"] for row in table["rows"]] == ["neural-cache", "fwl", "none"]
    (table,) = tables("mine", "--baseline", "fwl", results=results)
    rows = {row["method"]: row for row in table["rows"]}
    assert rows["fwl"]["delta_nats_per_token"] is None
    assert rows["none"]["delta_nats_per_token"] > 0 > rows["neural-cache"]["delta_nats_per_token"]
    assert rows["none"]["p_sign_flip"] == 2**-11
    assert rows["none"]["p_holm"] == 2**-10
    assert any(column["title"].endswith("vs fwl") for column in table["columns"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine", "--sort", "beauty"], "is no column"),
        (["mine", "--baseline", "other"], "none of the runs' methods"),
        (["mine", "--format", "parquet"], "--output"),
        (["--suite", "nothing"], "no group of the suite"),
        ([], "name runs or groups"),
    ],
)
def test_what_cannot_be_done_is_said(results: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compare(*arguments, results=results)


def test_one_document_has_no_test_and_the_reason_is_given(tmp_path: Path) -> None:
    for spec in ("none", "fwl"):
        store_run(tmp_path / "one", spec, documents=1)
    (table,) = tables("one", results=tmp_path)
    assert table["rows"][1]["p_holm"] is None
    assert table["rows"][1]["perplexity_ratio_ci95_low"] is None
    assert "one document: no between-document inference" in table["notes"]


def test_a_bootstrap_is_there_from_forty_documents_on(tmp_path: Path) -> None:
    for spec, gain in (("none", 0.0), ("fwl", 0.1)):
        store_run(tmp_path / "many", spec, gain, documents=40)
    (table,) = tables("many", results=tmp_path)
    row = table["rows"][1]
    low, high = row["delta_bootstrap_ci95_low"], row["delta_bootstrap_ci95_high"]
    assert low < row["delta_nats_per_token"] < high
    assert low == pytest.approx(row["delta_ci95_low"], rel=0.1)


@pytest.mark.parametrize("by", ["domain", "dataset", "document"])
def test_slices_add_up(by: str) -> None:
    (table,) = tables("smollm2-stdlib-gpu", "--by", by)
    rows = [row for row in table["rows"] if row["method"] == "none"]
    assert sum(row["tokens"] for row in rows) == 393_216
    names = [row["slice"] for row in rows]
    assert len(names) == len(set(names))
    expected = {"domain": "email", "dataset": "builtin:stdlib", "document": "turtle.py"}
    assert expected[by] in names


def test_datasets_stand_side_by_side(results: Path) -> None:
    other = {"spec": "builtin:pydoc", "fingerprint": "beef"}
    store_run(results / "other", dataset=other)
    store_run(results / "third", protocol=PROTOCOL | {"chunk": 7}, dataset=other)
    names = ("mine", "other", "third")
    first, second = tables(*names, "--by", "dataset", results=results)
    assert {row["slice"] for row in first["rows"]} == {"builtin:stdlib", "builtin:pydoc"}
    assert len(second["rows"]) == 1


def test_every_format(results: Path) -> None:
    for format in ("rich", "markdown", "latex"):
        assert "neural-cache" in compare("mine", "--format", format, results=results)
    lines = list(csv.DictReader(io.StringIO(compare("mine", "--format", "csv", results=results))))
    assert [line["tier"] for line in lines] == ["3", "2", "1"]
    file = results / "table.parquet"
    compare("mine", "--format", "parquet", "-o", file, results=results)
    frame = pd.read_parquet(file)
    assert frame["perplexity"].tolist() == [float(line["perplexity"]) for line in lines]
    assert frame.columns.is_unique


def test_a_suite_names_its_groups(results: Path) -> None:
    (results / "mine").rename(results / "small-0123abcd")
    (table,) = tables("--suite", "small", results=results)
    assert len(table["rows"]) == 3
    assert len(tables("small-0123abcd", "--suite", "small", results=results)[0]["rows"]) == 3
