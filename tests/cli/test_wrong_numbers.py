"""Numbers on the command line: a sentence says what is wanted and what was typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import Command
from slow import slow
from typer.testing import CliRunner

from tta_bench.cli.main import app

TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. "


@pytest.mark.parametrize(
    ("words", "least", "typed"),
    [
        (["eval", "--chunk", "abc"], 1, "abc"),
        (["eval", "--chunk", "12.5"], 1, "12.5"),
        (["eval", "--limit", "0"], 1, "0"),
        (["plan", "--context", "-5"], 0, "-5"),
        (["plan", "--max-tokens", "1"], 2, "1"),
        (["eval", "--window", "1"], 2, "1"),
        (["eval", "--seed", "-1"], 0, "-1"),
        (["eval", "--seed", "9" * 30], 0, "9" * 30),
        (["eval", "--min-tokens", "9" * 5000], 0, "9" * 40),
        (["speed", "--steps", "1.5"], 1, "1.5"),
        (["reproduce", "mine", "--limit", "no"], 1, "no"),
    ],
)
def test_a_wrong_number_is_quoted(words: list[str], least: int, typed: str) -> None:
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    option = next(word for word in words if word.startswith("--"))
    assert f"'{option}': it must be a whole number of at least {least}, not '{typed}'." in (
        done.output
    )


@pytest.mark.parametrize("command", ["eval", "plan", "speed", "reproduce", "compare", "report"])
def test_none_is_no_default_where_it_may_mean_a_method(command: str) -> None:
    """`none` is a method; what is not there is called by what it is: no file, no suite."""
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    found = re.findall(r"--([a-z-]+)[^\[]*\[default: none\]", done.output)
    assert set(found) <= {"baseline"}  # its default is that method


@slow
def test_one_chunk_for_everything_is_remarked_once(tta_bench: Command, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    common = ["eval", "--dataset", "a.txt", "--audit", "off", "--method", "none"]
    done = tta_bench(*common, "--method", "neural-cache", "--method", "ngram", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.replace("\n", " ").count("one chunk covers every document of a.txt") == 1
    assert "one chunk covers" not in tta_bench(*common, cwd=tmp_path).stderr
    quiet = tta_bench(*common, "--method", "ngram", "--quiet", "--rerun", "all", cwd=tmp_path)
    assert "one chunk covers" not in quiet.stderr


def test_a_window_too_wide_costs_no_other_method_its_time(
    tta_bench: Command, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(TEXT * 90)
    methods = ["--method", "none", "--method", "window:context=256"]
    done = tta_bench("eval", "--dataset", "a.txt", "--chunk", 1024, *methods, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "Error: window:context=256 reads 1280 tokens at once, but builtin:tiny has 1024 positions; "
        "let it read fewer, or lower --chunk."
    )
    assert not (tmp_path / "results").exists()
