"""Output where it can hardly go: encodings without our characters, closed pipes, a full disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import ENVIRONMENT, Command, in_a_process
from slow import slow
from stored_runs import store_run

from tta_bench.evaluation.progress import Progress
from tta_bench.store import load_group

ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "the C locale": {
        "LANG": "C",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "",
    },
}


@pytest.fixture
def group(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "mine"
    store_run(folder)
    store_run(folder, "fwl:lr=0.1", 0.1)
    return folder


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_table_in_any_encoding(group: Path, encoding: str) -> None:
    for command in ("show", "compare"):
        done = in_a_process(command, group, cwd=group.parent, **ENCODINGS[encoding])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()
        assert "d nats" in done.stdout


def test_columns_stand_in_line_without_our_characters(
    group: Path, tta_bench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as here:
        here.setattr(sys, "stdout", out)
        from tta_bench.cli.printing import print_tables
        from tta_bench.cli.streams import accept_any_text
        from tta_bench.tables import summary_tables

        here.setenv("COLUMNS", "160")
        accept_any_text()
        print_tables([summary_tables(load_group(group))])
    out.seek(0)
    lines = out.read().split("\n")
    (rule,) = (number for number, line in enumerate(lines) if line.startswith("--"))
    assert "+-" in "".join(lines)
    assert len({len(line) for line in lines[rule - 1 : rule + 3]}) == 1


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("eval", "--dataset", "a.txt", "--audit", "off"), marks=slow),
        ("list", "methods"),
        ("--help",),
    ],
)
def test_other_commands_in_ascii(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "a.txt").write_text("hello world, hello there, and hello to you")
    done = in_a_process(*words, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_terminals_without_colour(group: Path, setting: dict[str, str]) -> None:
    done = in_a_process("show", group, cwd=group.parent, **setting)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout


def into(words: list[object], target: int | None, folder: Path) -> tuple[int, str]:
    """Exit code and standard error of a command whose standard output leads to a descriptor."""
    done = subprocess.run(
        [sys.executable, "-m", "tta_bench", *map(str, words)],
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        cwd=folder,
        env=os.environ | ENVIRONMENT,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [["show"], ["show", "--format", "csv"]])
def test_a_reader_that_has_gone(group: Path, words: list[object]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert into([*words, group], writing, group.parent) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_is_one_sentence(group: Path) -> None:
    with open("/dev/full", "w") as full:
        code, said = into(["list", "methods"], full.fileno(), group.parent)
    assert (code, said.count("\n")) == (1, 1)
    assert "disk is full" in said


def test_a_run_goes_on_when_nobody_reads_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """`eval 2>&1 | head -1` ended a sound method in an error, which its run kept."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone, monkeypatch.context() as here:
        here.setattr(sys, "stderr", gone)
        with Progress() as progress:
            progress.start_method("none", 1, 10)
            progress.update(10, 1.0, 1)
            progress.end_method("complete")
            progress.note("a sentence")
