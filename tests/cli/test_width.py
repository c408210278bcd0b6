"""Every command's tables at 80 columns and without a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from slow import slow
from stored_runs import make_row, store_run
from typer.testing import CliRunner

from tta_bench.cli.check import _print as print_report
from tta_bench.cli.main import app
from tta_bench.cli.printing import program
from tta_bench.cli.reproduce import _print as print_comparisons
from tta_bench.evaluation.agreement import compare_runs
from tta_bench.store import Run
from tta_bench.validity.report import ProbeResult, ValidityReport

PUBLISHED = Path(__file__).parents[2] / "results"
SPECS = (
    "none",
    "dynamic-eval:optimizer=adam,lr=0.0001,subset=last-4",
    "window:context=256",
    "fwl:weights=/a/long/path/to/slow/weights/that/nobody/wants/to/read/best.safetensors",
)
PARTS = (
    "dynamic-eval:",
    "optimizer=adam,",
    "lr=0.0001,",
    "subset=last-4",
    "window:",
    "context=256",
)
WRITTEN = "results/train/a-folder-with-a-long-name/and another/weights.safetensors"


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Four methods, one of them with a failed document and one that is not valid."""
    oom = make_row(3, "oom", reason="the document did not fit into the memory of the device")
    wrong = {"valid": False, "rules_broken": ["future"], "valid_reason": "future: it peeks"}
    group = tmp_path / "a-group-of-runs"
    return [
        store_run(group, SPECS[0]),
        store_run(group, SPECS[1], 0.1, 3, (oom,), {"flops_per_token": 8.1e8}),
        store_run(group, SPECS[2], 0.3, summary=wrong),
        store_run(group, SPECS[3], 0.05, summary={"offline_flops": 1e15}),
    ]


def called(*words: object, columns: int | None) -> str:
    environment = {"COLUMNS": None if columns is None else str(columns)}
    done = CliRunner().invoke(app, [str(word) for word in words], env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def assert_fits(text: str, width: int) -> None:
    for line in text.splitlines():
        assert cell_len(line) <= width, line


ON_A_GROUP = (
    ("show", "a-group-of-runs"),
    ("show", "a-group-of-runs", "--documents"),
    ("show", "a-group-of-runs", "--metric", "word_perplexity", "--metric", "seconds"),
    ("compare", "a-group-of-runs"),
    ("compare", "a-group-of-runs", "--sort", "state"),
    ("compare", "a-group-of-runs", "--by", "document"),
    (
        "compare",
        "a-group-of-runs",
        "--columns",
        "word perplexity, Δ, flops, documents done, valid r",
    ),
    ("compare", "a-group-of-runs", "--budget", "flops=9x", "--columns", "Δ,p,tier,state"),
    ("show", "a-group-of-runs", "--curve"),
    ("runs",),
    ("runs", "--columns", "method,model,dataset,size,status"),
)


@pytest.mark.parametrize("words", ON_A_GROUP, ids=" ".join)
def test_tables_of_runs(words: tuple[str, ...], runs: list[Run], tmp_path: Path) -> None:
    narrow = called(*words, "--results", tmp_path, columns=80)
    assert_fits(narrow, 80)
    for part in PARTS:
        assert part in narrow
    for text in (narrow, called(*words, "--results", tmp_path, columns=None)):
        assert "/a/long/path" not in text
        assert "best.safetensors" in text


@pytest.mark.parametrize("words", ON_A_GROUP, ids=" ".join)
def test_without_a_terminal_a_row_is_a_line(
    words: tuple[str, ...], runs: list[Run], tmp_path: Path
) -> None:
    text = called(*words, "--results", tmp_path, columns=None)
    assert "left out at" not in text
    for label in (SPECS[1], SPECS[2], "fwl:weights=…/best.safetensors"):
        assert label in text
    bounded = called(*words, "--results", tmp_path, columns=5000)
    assert re.sub(r"\d+ s\b", "", text) == re.sub(r"\d+ s\b", "", bounded)  # ages move on


def test_what_is_asked_for_stays_at_80_columns(runs: list[Run], tmp_path: Path) -> None:
    asked = called(*ON_A_GROUP[2], "--results", tmp_path, columns=80)
    assert "word" in asked
    assert re.search(r"^left out at 80 columns: .*state/lane", asked, re.MULTILINE | re.DOTALL)
    by_state = called(*ON_A_GROUP[4], "--results", tmp_path, columns=80)
    assert re.search(r"state/|lane", by_state.split("left out")[0])


@pytest.mark.parametrize("width", [80, 100])
def test_a_stored_table_of_speed(width: int) -> None:
    text = called("show", "speed-smollm2", "--results", PUBLISHED, columns=width)
    assert_fits(text, width)
    for part in ("transformers", "forward,", "compiled", "dynamic-eval:", "optimizer=sgd"):
        assert part in text
    wide = called("show", "speed-smollm2", "--results", PUBLISHED, columns=None)
    assert re.search(r"^dynamic-eval:subset=last-4 +\d", wide, re.MULTILINE)


@slow
def test_the_jobs_of_a_plan(tmp_path: Path) -> None:
    words = ("plan", "--results", tmp_path)
    narrow = called(*words, columns=80)
    assert_fits(narrow, 80)
    assert {"dynamic-eval:", "lr=0.0001", "context=256", "weights=control"} <= set(narrow.split())
    assert "dynamic-eval:lr=0.0001" in called(*words, columns=None)


def test_a_run_that_was_repeated(
    runs: list[Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_comparisons([compare_runs(runs[1], runs[1], ())])
    text = capsys.readouterr().out
    assert_fits(text, 80)
    assert "doc0.py" in text


REPORT = ValidityReport(
    SPECS[1],
    (
        ProbeResult("causality", "pass", 0.0, "0 nats", "A loss does not depend on [b]later[/b]."),
        ProbeResult("idle lanes", "fail", 1.5, "1.5 nats", f"It changes state of {WRITTEN}. " * 3),
    ),
    2.0,
)


def test_what_probes_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_report(REPORT)
    narrow = capsys.readouterr().out
    assert_fits(narrow, 80)
    assert "idle lanes" in narrow
    assert "[b]later[/b]" in narrow
    monkeypatch.delenv("COLUMNS")
    print_report(REPORT)
    assert f"It changes state of {WRITTEN}." in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["methods", "models", "suites", "datasets", "metrics"])
def test_lists(kind: str) -> None:
    assert_fits(called("list", kind, columns=80), 80)
    count = len(called("list", kind, columns=None).splitlines())
    assert count == called("list", kind, "--json", columns=None).count('"summary"')


@pytest.mark.parametrize("columns", [30, 80])
def test_commands_to_paste_are_never_broken(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from tta_bench.cli.eval import _print

    group = tmp_path / "a folder of results" / "a-group-with-a-rather-long-name-0123abcd"
    stored = [store_run(group), store_run(group, "fwl", 0.1)]
    monkeypatch.setenv("COLUMNS", str(columns))
    _print(stored, [], as_json=False)
    lines = [line.split("#")[0].strip() for line in capsys.readouterr().out.splitlines()]
    for command in ("show", "compare", "report"):
        assert f"tta-bench {command} '{group}'" in lines


@pytest.mark.parametrize(
    ("called", "found", "typed"),
    [
        (".venv/bin/tta-bench", None, ".venv/bin/tta-bench"),
        ("/a b/tta-bench", None, "'/a b/tta-bench'"),
        (".venv/bin/tta-bench", "/usr/bin/tta-bench", "tta-bench"),
        ("/somewhere/tta_bench/__main__.py", None, "tta-bench"),
    ],
)
def test_commands_to_paste_begin_as_the_bench_was_called(
    called: str, found: str | None, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [called])
    monkeypatch.setattr("shutil.which", lambda name: found)
    assert program() == typed
