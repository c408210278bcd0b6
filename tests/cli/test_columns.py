"""`--columns`, `--budget`, `--frontier` and `--caption` on the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from stored_runs import store_run
from typer.testing import CliRunner, Result

from tta_bench.cli.main import app
from tta_bench.errors import UsageError

PUBLISHED = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for spec, gain, flops in (("none", 0.0, 1e9), ("fwl", 0.1, 2e9), ("neural-cache", 0.3, 3e9)):
        store_run(folder / "mine", spec, gain, summary={"flops_per_token": flops})
    return folder


def call(*words: object, results: Path) -> Result:
    command = [*map(str, words), "--results", str(results)]
    done = CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done


def head(text: str) -> list[str]:
    """The headings of the first table in Markdown."""
    line = next(line for line in text.splitlines() if line.startswith("|"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("command", ["show", "compare"])
def test_summaries(command: str, results: Path) -> None:
    words = (command, "mine", "--columns", "Word perplexity, flops", "--format", "markdown")
    assert head(call(*words, results=results).stdout) == [
        "method",
        "word perplexity",
        "FLOPs/token",
    ]


def test_slices(results: Path) -> None:
    words = ("compare", "mine", "--by", "document", "--columns", "byte perplexity")
    text = call(*words, "--format", "markdown", results=results).stdout
    assert head(text) == ["document", "method", "byte perplexity"]


def test_runs(results: Path) -> None:
    text = call("runs", "--columns", "method, MODEL", results=results).stdout
    assert text.split("\n")[2].split() == ["run", "method", "model"]
    whole = json.loads(call("runs", "--columns", "size", "--json", results=results).stdout)
    assert [set(row) for row in whole["runs"]] == [{"run", "size_bytes"}] * 3
    with pytest.raises(UsageError, match=r"did you mean 'method'\? The table shows run, method"):
        call("runs", "--columns", "metod", results=results)


def test_a_table_of_speed() -> None:
    words = ("show", "speed-cpu", "--columns", "tokens")
    text = call(*words, "--format", "markdown", results=PUBLISHED).stdout
    assert head(text) == ["row", "tokens/s"]
    whole = json.loads(call(*words, "--json", results=PUBLISHED).stdout)
    assert {tuple(row) for row in whole["rows"]} == {("label", "tokens_per_second")}


def test_json_csv_and_parquet_have_these_columns(results: Path) -> None:
    words = ("mine", "--columns", "perplexity,dtype")
    keys = ["method", "perplexity", "dtype"]
    (table,) = json.loads(call("compare", *words, "--json", results=results).stdout)["tables"]
    assert [list(row) for row in table["rows"]] == [keys] * 3
    shown = json.loads(call("show", *words, "--json", results=results).stdout)
    assert [list(row) for row in shown["rows"]] == [keys] * 3
    text = call("compare", *words, "--format", "csv", results=results).stdout
    assert next(csv.reader(io.StringIO(text))) == keys
    file = results / "table.parquet"
    call("compare", *words, "--format", "parquet", "-o", file, results=results)
    assert list(pd.read_parquet(file).columns) == ["table", *keys]


def test_json_is_the_format_of_that_name(results: Path) -> None:
    by_flag = call("compare", "mine", "--json", results=results).stdout
    assert by_flag == call("compare", "mine", "--format", "json", results=results).stdout


def test_eval_prints_what_was_asked_for(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tta_bench.cli.eval import _print
    from tta_bench.store import load_group

    stored = load_group(results / "mine")
    _print(stored, ["word_perplexity"], as_json=True, columns=["word perplexity", "tokens"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [list(row) for row in rows] == [["method", "word_perplexity", "tokens"]] * 3
    _print(stored, [], as_json=False, columns=["bits/byte"])
    assert capsys.readouterr().out.split("\n")[2].split() == ["method", "bits/byte"]


def test_sorting_by_what_is_not_shown(results: Path) -> None:
    words = ("compare", "mine", "--sort", "word perplexity", "--columns", "flops", "--json")
    (table,) = json.loads(call(*words, results=results).stdout)["tables"]
    assert [row["method"] for row in table["rows"]] == ["neural-cache", "fwl", "none"]


def test_a_budget_and_the_frontier(results: Path) -> None:
    words = ("compare", "mine", "--budget", "flops=2.5x", "--budget", "time=9s")
    text = call(*words, results=results).stdout
    assert "best at flops=2.5x (2.50 GFLOPs/token), time=9s: fwl, Δ" in " ".join(text.split())
    (table,) = json.loads(call(*words, "--json", results=results).stdout)["tables"]
    assert {row["method"]: row["best_at_budget"] for row in table["rows"]} == {
        "none": False,
        "fwl": True,
    }
    words = ("compare", "mine", "--frontier", "flops", "--columns", "flops", "--json")
    (table,) = json.loads(call(*words, results=results).stdout)["tables"]
    assert [row["method"] for row in table["rows"]] == ["none", "fwl", "neural-cache"]


def test_a_table_for_a_paper_and_a_page(results: Path) -> None:
    words = ("export", "mine", "--columns", "perplexity,p", "--caption", "Three rows")
    text = call(*words, "--format", "latex", results=results).stdout
    assert r"\caption{Three rows}" in text.replace(".}", "}")
    assert r"method & perplexity & p \\" in text
    compared = ("compare", "mine", "--columns", "perplexity,p", "--caption", "Three rows")
    assert text == call(*compared, "--format", "latex", results=results).stdout
    file = results / "table.html"
    done = call(*words, "--format", "html", "-o", file, results=results)
    assert done.stderr == f"Wrote 1 table to {file}.\n"
    assert "<caption>Three rows</caption>" in file.read_text()
    assert "<table>" in call("show", "mine", "--format", "html", results=results).stdout


def test_several_tables_tell_their_captions_apart(results: Path, tmp_path: Path) -> None:
    store_run(tmp_path / "two")
    store_run(tmp_path / "two", dataset={"spec": "builtin:pydoc", "fingerprint": "beef"})
    words = ("export", "two", "--format", "latex", "--caption", "Both")
    text = call(*words, results=tmp_path).stdout
    assert r"\caption{Both: smollm2-135m on builtin:stdlib" in text
    assert r"\caption{Both: smollm2-135m on builtin:pydoc" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "mine", "--columns", "perplexty"], "did you mean 'perplexity'"),
        (["show", "mine", "--columns", "beauty"], "is no column; the table shows method, perpl"),
        (["compare", "mine", "--by", "document", "--columns", "tier"], "is no column"),
        (["compare", "mine", "--columns", "longppl"], "key tokens of longppl are not there"),
        (["compare", "mine", "--budget", "flops=2"], "no amount with its unit"),
        (["compare", "mine", "--by", "domain", "--budget", "flops=2x"], "a slice has no costs"),
        (["compare", "mine", "--by", "domain", "--frontier", "state"], "a slice has no costs"),
        (["compare", "mine", "--caption", "c"], "--caption is of LaTeX and HTML"),
        (["compare", "mine", "--json", "--format", "latex", "--caption", "c"], "--caption is of"),
        (["export", "mine", "--caption", "c"], "--caption is of LaTeX and HTML"),
        (["export", "mine", "--columns", "perplexity"], "--columns is of tables to print"),
        (["eval", "--columns", "token/s"], "did you mean 'tokens/s'"),
    ],
)
def test_what_cannot_be_done_is_said(words: list[str], sentence: str, results: Path) -> None:
    with pytest.raises(UsageError) as caught:
        call(*words, results=results)
    assert sentence in str(caught.value)


def test_a_cost_that_there_is_not_is_refused(results: Path) -> None:
    done = CliRunner().invoke(app, ["compare", "mine", "--frontier", "beauty"])
    assert done.exit_code == 2
    assert "beauty" in done.stderr
