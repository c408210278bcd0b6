"""The table of every system of the literature: its command, and what it was proven against."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from tta_bench import metrics
from tta_bench.cli.main import app
from tta_bench.contract.choice import choose
from tta_bench.contract.registry import available
from tta_bench.contract.spec import split_spec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
(TABLE,) = re.findall(r"^## Every system.*?((?:^\|[^\n]*\n)+)", PAGE, re.MULTILINE | re.DOTALL)
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.splitlines()[2:]]
SYSTEMS = {system: (command.strip("`"), proof) for system, command, proof in ROWS}
EVAL = typer.main.get_command(app).commands["eval"]


def options_of(command):
    """The values that a command of the table gives to its options."""
    words = shlex.split(command)
    assert words[:2] == ["tta-bench", "eval"]
    with EVAL.make_context("eval", words[2:]) as context:
        return context.params


OPTIONS = {system: options_of(command) for system, (command, _) in SYSTEMS.items()}
NAMES = {
    system: {split_spec(spec)[0] for spec in options["method"]}
    for system, options in OPTIONS.items()
}


def test_every_method_has_a_row_and_every_row_a_method():
    built_in = {name for name, info in available().items() if ROOT / "methods" in info.file.parents}
    assert built_in <= set().union(*NAMES.values())


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_command_names_methods_and_metrics_as_they_are_called(system):
    given = OPTIONS[system]
    for spec in given["method"]:
        assert choose(spec).name == split_spec(spec)[0]
    assert set(given["metric"] or ()) <= set(metrics.available())


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_a_row_was_proven_against_is_in_the_tree(system):
    names = re.findall(r"`([^`]+)`", SYSTEMS[system][1])
    assert names
    for name in names:
        path = ROOT / "tests" / ("methods" if name.endswith(".py") else "golden") / name
        assert path.exists(), name


def test_what_is_no_text_says_what_was_carried_over_and_what_not():
    after = PAGE.partition("Two of them are no methods for text:")[2]
    for begin in ("- **TTT of one-minute videos**", "- **ADCSD**"):
        (text,) = re.findall(re.escape(begin) + r".*?(?=\n- |\Z)", after, re.DOTALL)
        assert "Carried over:" in text
        assert "Not carried over:" in text
