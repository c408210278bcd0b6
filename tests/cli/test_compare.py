"""`tta-bench compare` on stored runs, those committed among them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from stored_runs import PROTOCOL, make_row, store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.errors import UsageError
from tta_bench.store import Run

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


def test_p_and_tier_are_of_one_test() -> None:
    code = next(table for table in tables("headline-smollm2") if "pypi:mypy" in table["title"])
    rows = {row["method"]: row for row in code["rows"]}
    assert {name: row["tier"] for name, row in rows.items()} == {
        "none": 6,
        "window": 2,
        "window:context=3072": 1,
        "neural-cache": 5,
        "dynamic-eval:lr=0.0002": 1,
        "fwl:weights=control": 3,
        "fwl:step=0": 4,
        "fwl": 3,
    }
    assert (rows["none"]["p_holm"], rows["none"]["p_reason"]) == (None, None)
    for name in rows.keys() - {"none"}:  # every one is told apart from none, in p and in tier
        assert rows[name]["p_t"] <= rows[name]["p_holm"] < 0.01
    assert any(note.startswith("p: paired t over documents") for note in code["notes"])
    assert any(note.startswith("tier: by the same test") for note in code["notes"])


def noisy(path: Path, spec: str, gains: list[float], **options: Any) -> Run:
    """A run that is better than `none` by so many nats per token in each document."""
    extra = [
        make_row(i, nll=(2.0 - gain) * (100 + 10 * i), **options.pop(f"row{i}", {}))
        for i, gain in enumerate(gains)
    ]
    return store_run(path, spec, documents=0, extra=tuple(extra), **options)


def test_five_documents_have_a_p_that_agrees_with_the_tier(tmp_path: Path) -> None:
    noisy(tmp_path / "few", "none", [0.0] * 5)
    noisy(tmp_path / "few", "fwl", [0.30, 0.32, 0.31, 0.29, 0.30])
    noisy(tmp_path / "few", "neural-cache", [0.01, -0.02, 0.02, -0.01, 0.0])
    (table,) = tables("few", results=tmp_path)
    none, fwl, cache = table["rows"]
    assert (none["tier"], fwl["tier"], cache["tier"]) == (2, 1, 2)
    assert fwl["p_holm"] < 0.05 < cache["p_holm"]
    # Five sign flips cannot fall below 0.0625: they cannot speak.
    assert fwl["p_sign_flip"] is None
    assert not any("sign flip" in note for note in table["notes"])


def test_sign_flips_are_given_where_they_can_reach_five_percent(tmp_path: Path) -> None:
    noisy(tmp_path / "six", "none", [0.0] * 6)
    noisy(tmp_path / "six", "fwl", [0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    assert tables("six", results=tmp_path)[0]["rows"][1]["p_sign_flip"] == 2**-5


def test_copies_of_a_document_are_one_observation(tmp_path: Path) -> None:
    same = {f"row{i}": {"sha256": "a" * 64} for i in range(12)}
    noisy(tmp_path / "copies", "none", [0.0] * 12, **same)
    noisy(tmp_path / "copies", "fwl", [0.64] * 12, **same)
    (table,) = tables("copies", results=tmp_path)
    row = table["rows"][1]
    assert row["delta_nats_per_token"] == pytest.approx(-0.64)
    assert (row["delta_ci95"], row["p_holm"], row["p_sign_flip"], row["tier"]) == (None,) * 4
    reason = "12 documents, 1 of them distinct: an interval needs at least two"
    assert row["p_reason"] == row["delta_reason"] == reason
    assert table["notes"][0].startswith("12 documents, 1 of them distinct, ")
    assert "-0.6400 ±—" in compare("copies", "--format", "markdown", results=tmp_path)


def test_without_a_reset_there_is_no_inference_over_documents(tmp_path: Path) -> None:
    never = {"protocol": PROTOCOL | {"reset": "never"}}
    noisy(tmp_path / "never", "none", [0.0] * 8, **never)
    noisy(tmp_path / "never", "fwl", [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2], **never)
    (table,) = tables("never", results=tmp_path)
    row = table["rows"][1]
    assert row["delta_nats_per_token"] < 0
    assert (row["delta_ci95"], row["p_holm"], row["tier"]) == (None, None, None)
    assert "documents depend on each other" in row["delta_reason"]
    text = compare("never", "--format", "markdown", results=tmp_path)
    assert " ±—" in text
    assert "documents depend on each other, since the method is never reset" in text


def test_what_is_not_valid_is_in_no_test(tmp_path: Path) -> None:
    gains = [0.1, 0.2, 0.15, 0.12, 0.22, 0.18]
    noisy(tmp_path / "mine", "none", [0.0] * 6)
    noisy(tmp_path / "mine", "fwl", gains)
    (before,) = tables("mine", results=tmp_path)
    why = {"valid": False, "rules_broken": ["future"], "valid_reason": "future: it peeks"}
    noisy(tmp_path / "mine", "cheat", [1.0 + gain for gain in gains], summary=why)
    (table,) = tables("mine", results=tmp_path)
    cheat = table["rows"][2]
    assert (cheat["ranked"], cheat["tier"], cheat["p_holm"]) == (False, None, None)
    assert cheat["p_reason"] == "it is not ranked"
    for row, old in zip(table["rows"], before["rows"], strict=False):  # nor does it move others
        assert (row["tier"], row["p_holm"]) == (old["tier"], old["p_holm"])
    (by_loss,) = tables("mine", "--sort", "perplexity", results=tmp_path)
    assert [row["method"] for row in by_loss["rows"]] == ["fwl", "none", "cheat"]
    for format in ("rich", "markdown", "latex"):
        text = compare("mine", "--format", format, results=tmp_path)
        assert "cheat (NOT VALID)" in text
        assert "NOT VALID: cheat: future: it peeks" in text
    (*_, line) = csv.DictReader(io.StringIO(compare("mine", "--format", "csv", results=tmp_path)))
    assert (line["valid"], line["valid_reason"]) == ("False", "future: it peeks")
    by = compare("mine", "--by", "document", "--format", "markdown", results=tmp_path)
    assert by.count("cheat (NOT VALID)") == 6


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
    assert rows["none"]["p_t"] <= rows["none"]["p_holm"] < 1e-6
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
    assert "one document: an interval needs at least two" in table["notes"]


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
