"""`tta-bench plan`, and the options that commands share."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated

import pytest
import typer
from slow import slow
from typer.testing import CliRunner

from tta_bench.cli.grouping import grouped
from tta_bench.cli.main import app
from tta_bench.cli.suite_options import SuiteOptions
from tta_bench.engine.protocol import Protocol
from tta_bench.evaluation.suite import Suite

TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. " * 6


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "a.txt").write_text(TEXT)
    return tmp_path


COMMON = ["--dataset", "a.txt", "--chunk", "32", "--name", "mine"]


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_plan_is_a_table_and_runs_nothing(texts: Path) -> None:
    output = run("plan", *COMMON, "--method", "none", "--method", "fwl-untrained")
    assert "Jobs of results/mine" in output
    assert re.search(r"none +1 +0 +\d+ +[\d.]+ M +[\d.]+ G", output)
    assert re.search(r"fwl-untrained +1 +0 +\d+ +— +—", output)
    assert output.count("fwl-untrained: it needs the model's weights, which a plan does not") == 1
    assert "Error" not in output
    alone = run("plan", *COMMON, "--method", "fwl-untrained")
    assert "FLOPs unknown" in alone
    assert "0FLOPs" not in alone
    assert not (texts / "results").exists()


@slow
def test_what_eval_stored_is_in_the_plan(texts: Path) -> None:
    told = run("eval", *COMMON, "--quiet")
    assert "tta-bench show results/mine" in told
    assert "tta-bench compare" not in told  # one method has nothing beside it
    assert "loading" not in told
    words = ["--method", "none", "--method", "neural-cache"]
    jobs = json.loads(run("plan", *COMMON, *words, "--json").splitlines()[-1])["jobs"]
    assert [(job["method"], job["stored"]) for job in jobs] == [("none", 1), ("neural-cache", 0)]
    assert "1 of them stored whole" in run("plan", *COMMON, *words)
    told = run("eval", *COMMON, *words, "--quiet")
    for command in ("show", "compare", "report"):
        run(*re.search(rf"tta-bench ({command} \S+)", told)[1].split())  # type: ignore[index]


def test_eval_says_what_takes_time_before_the_first_method(texts: Path) -> None:
    lines = run("eval", *COMMON).splitlines()
    assert lines[:2] == ["loading builtin:tiny", "tokenising a.txt"]


# Options


def options_of(command: str) -> list[str]:
    """The blocks of `--help`, one an option that takes a value."""
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    lines = [line.strip("│ ") for line in done.output.splitlines() if line.startswith("│")]
    blocks = re.split(r"\n(?=\*? *-)", "\n".join(lines))
    return [block for block in blocks if block.startswith("-") and "<bool>" not in block]


@pytest.mark.parametrize("command", ["eval", "plan", "speed", "train", "reproduce"])
def test_help_shows_every_default(command: str) -> None:
    options = options_of(command)
    assert len(options) > 2
    for option in options:
        assert "[default: " in " ".join(option.split()), option


def test_defaults_are_those_of_suite_and_protocol() -> None:
    help_text = " ".join(" ".join(options_of("eval")).split())
    suite, protocol = Suite(), Protocol()
    shown = {
        "chunk": protocol.chunk,
        "context": protocol.context,
        "prefix": protocol.prefix,
        "reset": protocol.reset,
        "protocol": protocol.name,
        "seed": suite.seed,
        "lanes": suite.lanes,
        "dtype": suite.dtype,
        "limit": "all",
        "model": suite.models[0],
    }
    for name, value in shown.items():
        pattern = rf"--{name} (?:(?!\[default).)*\[default: {re.escape(str(value))}[\],]"
        assert re.search(pattern, help_text), name


def test_every_option_of_a_suite_reaches_it(texts: Path) -> None:
    """One that was declared and then forgotten would change nothing, without a word."""
    given = SuiteOptions(
        model="m",
        method=["fwl"],
        dataset=["d"],
        text_column="t",
        limit=3,
        max_tokens=9,
        min_tokens=2,
        protocol="stream",
        chunk=8,
        context=4,
        context_mode="cache",
        prefix="eos",
        reset="never",
        tokenizer="t",
        adapter="beside",
        load_in="4bit",
        device_map="auto",
        dtype="float64",
        seed=7,
        device="cpu",
        lanes="1",
        compile="off",
        deterministic=True,
        isolate=True,
        audit="full",
        probe="p",
        fresh=True,
    )
    suite, base = given.resolve()
    assert base is None
    fresh = dataclasses.asdict(Suite())
    left = [k for k, v in dataclasses.asdict(suite).items() if v == fresh[k]]
    # No flag says on what to tune; the others are what a file alone says.
    assert set(left) == {"description", "tune", "words", "elsewhere"}
    fields = dataclasses.asdict(Protocol())
    unset = [k for k, v in suite.resolved_protocol().to_dict().items() if v == fields[k]]
    assert unset == ["name", "window", "stride"]
    guide = SuiteOptions(dataset=["d"], protocol="hf-guide", window=8, stride=4).resolve()[0]
    assert guide.resolved_protocol() == Protocol("hf-guide", window=8, stride=4)


def test_a_group_becomes_options_and_comes_back_whole() -> None:
    @dataclasses.dataclass
    class Size:
        width: Annotated[int, typer.Option(help="Wide.")] = 3
        names: Annotated[list[str] | None, typer.Option()] = None

    found: list[object] = []

    def command(size, deep: bool = False) -> None:  # type: ignore[no-untyped-def]
        """What it does."""
        found.append((size, deep))

    command.__annotations__["size"] = Size
    small = typer.Typer()
    small.command()(grouped(command))
    assert "What it does" in CliRunner().invoke(small, ["--help"]).output
    assert CliRunner().invoke(small, ["--width", "5", "--names", "a", "--deep"]).exit_code == 0
    assert CliRunner().invoke(small, ["--width", "x"]).exit_code == 2
    assert found == [(Size(5, ["a"]), True)]
