"""From stored runs to their key tokens, and to tables and a report that use them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Command
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.evaluation import key_tokens as making
from tta_bench.evaluation.reopen import reopen
from tta_bench.store import load_group

STRANGE = "The zephyr of Qwxy met Brontu near Vilk; Karmo sold 7 quilts to Zedda. "
FILLER = "The lazy dog sleeps, and the fox jumps over it. "
TEXTS = {
    "repeats": STRANGE + FILLER * 6 + STRANGE,
    "japanese": "日本語の文章です。" + FILLER * 6 + "日本語の文章です。" + FILLER,
    "short": FILLER * 2,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group of real runs, with key tokens that `eval` itself has found."""
    home = tmp_path_factory.mktemp("longppl")
    (home / "texts").mkdir()
    for name, text in TEXTS.items():
        (home / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    command = ["eval", "--dataset", str(home / "texts"), "--chunk", "64", "--audit", "off"]
    command += ["--method", "none", "--method", "neural-cache", "--name", "mine", "--json"]
    command += ["--results", str(home / "results"), "--metric", "longppl-64"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert rows[0]["key_tokens-64"] == rows[1]["key_tokens-64"] > 20
    assert rows[1]["longppl-64"] < rows[0]["longppl-64"]  # a cache remembers what comes back
    return home / "results" / "mine"


@pytest.fixture
def group(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "mine")


def lines(group: Path) -> list[dict[str, Any]]:
    (file,) = (group / "key_tokens").glob("longppl-64-*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_number_is_the_mean_over_the_stored_key_tokens(group: Path, tta_bench: Command) -> None:
    header, *documents = lines(group)
    assert header["rule"] == {"trunc_len": 64, "sliding_window": 16, "alpha": 2.0, "beta": -2.0}
    assert header["evaluator"]["name"] == "builtin:tiny"
    runs = load_group(group)
    done = tta_bench("show", group, "--metric", "longppl-64", "--json", cwd=group)
    for run, row in zip(runs, json.loads(done.stdout)["rows"], strict=True):
        rows = {row.index: row for row in run.rows}
        # A prefix token stands before a document: the loss of token i is that of place i.
        losses = [float(run.nll(rows[d["index"]])[i]) for d in documents for i in d["key"]]
        assert row["key_tokens-64"] == len(losses)
        assert row["longppl-64"] == pytest.approx(math.exp(np.mean(losses)))
    shown = tta_bench("show", group, "--metric", "longppl-64", cwd=group)
    assert f"{len(losses)} key tokens in 2 of 3 documents (1 without any)" in shown.stdout
    assert "found by builtin:tiny in float32" in shown.stdout


def test_all_parts_of_a_character_are_key(group: Path) -> None:
    run = load_group(group)[0]
    shared = 0
    reopened = reopen(run.manifest)
    _, *documents = lines(group)
    for index, _, places in reopened.places({document["index"] for document in documents}):
        (key,) = (set(d["key"]) for d in documents if d["index"] == index)
        for i in range(1, len(places)):
            if (places[i] == places[i - 1]).all():
                shared += 1
                assert (i in key) == (i - 1 in key)
    assert shared > 10


def test_without_key_tokens_a_sentence_names_the_command(group: Path, tta_bench: Command) -> None:
    for words in (
        ["show", group],
        ["compare", group],
        ["export", group],
        ["show", group, "--json"],
    ):
        done = tta_bench(*words, "--metric", "longppl", cwd=group.parent)
        assert done.returncode == 2
        assert "`tta-bench key-tokens" in done.stderr
        assert "--metric longppl` makes" in done.stderr
    plain = json.loads(tta_bench("show", group, "--json", cwd=group).stdout)["rows"][0]
    assert plain["longppl"] is None
    assert "longppl-64" not in plain


def test_tables_and_the_report_show_them(group: Path, tta_bench: Command) -> None:
    asked = ("--metric", "longppl-64")
    done = tta_bench("compare", group, *asked, "--format", "csv", cwd=group)
    assert "longppl-64" in done.stdout.splitlines()[0]
    by = tta_bench("compare", group, *asked, "--by", "document", "--format", "csv", cwd=group)
    first = by.stdout.splitlines()[0].split(",")
    cells = {line.split(",")[0]: line.split(",") for line in by.stdout.splitlines()[1:7:2]}
    of = {name: cells[f"{name}.txt"][first.index("longppl-64")] for name in TEXTS}
    assert float(of["repeats"]) > 1
    assert of["short"] == ""
    exported = tta_bench("export", group, *asked, cwd=group)
    assert "run_longppl-64" in exported.stdout.splitlines()[0]
    page = group / "page.html"
    assert tta_bench("report", group, "-o", page, cwd=group).returncode == 0
    text = page.read_text(encoding="utf-8")
    assert "Gain on key tokens (longppl-64)" in text
    assert "other tokens" in text


def test_made_once_and_taken_up_where_they_end(
    group: Path, tta_bench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("key-tokens", group, "--metric", "longppl-64", "--json")
    before = lines(group)
    with monkeypatch.context() as here:
        here.setattr(making, "load_model", None)  # nothing is missing: no model is needed
        done = tta_bench(*command, cwd=group)
    (facts,) = json.loads(done.stdout.splitlines()[-1])["key_tokens"]
    assert facts["documents"] == 3
    assert facts["documents_without_key_tokens"] == 1
    assert facts["evaluator_flops"] > 0
    assert lines(group) == before
    (file,) = (group / "key_tokens").glob("*.jsonl")
    content = file.read_text().splitlines(keepends=True)
    file.write_text("".join(content[:2]) + content[2][:20])  # a crash in the middle of a line
    shown = tta_bench("show", group, "--metric", "longppl-64", cwd=group)
    assert "key tokens of 2 of 3 documents are not there" in shown.stdout
    tta_bench(*command, cwd=group)
    assert lines(group)[:2] == before[:2]
    bare = [
        [(d["index"], d["key"], d["read"]) for d in found[1:]] for found in (lines(group), before)
    ]
    assert bare[0] == bare[1]


def test_another_evaluator_begins_anew(group: Path, tta_bench: Command, tmp_path: Path) -> None:
    import tta_bench as package

    config = Path(package.__file__).parent / "data" / "tiny" / "config.json"
    shutil.copy(config, tmp_path / "config.json")
    words = ("--metric", "longppl-64", "--evaluator", f"config:{tmp_path / 'config.json'}")
    done = tta_bench("key-tokens", group, *words, cwd=group)
    assert done.returncode == 0, done.stderr
    header, *documents = lines(group)
    assert header["evaluator"]["random_weights"]
    assert not any(document["key"] for document in documents)  # it predicts nothing well
    shown = json.loads(
        tta_bench("show", group, "--metric", "longppl-64", "--json", cwd=group).stdout
    )["rows"][0]
    assert (shown["longppl-64"], shown["key_tokens-64"]) == (None, 0)
    done = tta_bench("report", group, "-o", group / "page.html", cwd=group)
    assert "No slice by key tokens of longppl-64: no document has any." in done.stderr


def test_documents_that_are_too_short_are_told(group: Path, tta_bench: Command) -> None:
    done = tta_bench("key-tokens", group, cwd=group)
    assert done.returncode == 2
    assert "ask for longppl-64" in done.stderr
    done = tta_bench("key-tokens", group, "--metric", "perplexity", cwd=group)
    assert done.returncode == 2
    assert "must be longppl or longppl-N" in done.stderr


def test_a_group_that_is_deleted_takes_them_along(group: Path, tta_bench: Command) -> None:
    assert tta_bench("rm", group, "--yes", cwd=group.parent).returncode == 0
    assert not group.exists()
