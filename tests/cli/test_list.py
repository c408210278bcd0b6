"""`list`, `show` and `new-method`, and that none of them loads PyTorch."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from stored_runs import store_run
from tiny import make_method, random_document, run_method
from typer.testing import CliRunner

from tta_bench.cli import list as list_command
from tta_bench.cli import new_method, show
from tta_bench.cli.options import METHOD_HELP
from tta_bench.contract import registry
from tta_bench.contract.listing import ParamInfo
from tta_bench.errors import BenchError, UsageError
from tta_bench.model.language_model import LanguageModel
from tta_bench.store import Run

app = typer.Typer()
app.command("show")(show.show)
app.command("new-method")(new_method.new_method)
app.add_typer(list_command.app, name="list")


def output(*words: str) -> str:
    """What a command prints; its BenchError is raised."""
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, BenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.chdir(tmp_path)
    folder = Path("results") / "quickstart"
    return [store_run(folder), store_run(folder, "fwl:lr=0.1", 0.1)]


# list


@pytest.mark.parametrize("kind", ["methods", "models", "suites", "datasets", "metrics"])
def test_every_list_is_text_and_json(kind: str) -> None:
    rows = json.loads(output("list", kind, "--json"))[kind]
    names = [row.get("name") or row["form"] for row in rows]
    text = output("list", kind)
    assert all(name in text for name in names)
    assert all(row["summary"] for row in rows)


def test_no_two_entries_of_a_list_say_the_same() -> None:
    for kind in ("methods", "models", "suites", "datasets", "metrics"):
        summaries = [row["summary"] for row in json.loads(output("list", kind, "--json"))[kind]]
        assert len(set(summaries)) == len(summaries), kind


def test_methods_show_their_parameters() -> None:
    rows = json.loads(output("list", "methods", "--json"))["methods"]
    methods = {row["name"]: row for row in rows}
    assert {"none", "neural-cache"} <= set(methods)
    window = next(p for p in methods["neural-cache"]["params"] if p["name"] == "window")
    assert window == {
        "name": "window",
        "type": "int",
        "default": "2048",
        "help": "pairs remembered",
    }
    text = output("list", "methods", "--verbose")
    assert "window=2048" in text
    assert "targets=[mlp]" in text
    assert "lr=none" in text
    assert "pairs remembered" in text
    assert "[sgd|adam|adamw|rms18|rms19|rms-gpt2]" in text


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        ("Literal['one']", ["one"]),
        ("typing.Literal['a', 2] | None", ["a", "2"]),
        ("list[str]", []),
    ],
)
def test_the_values_of_a_choice_are_read_from_its_type(kind: str, choices: list[str]) -> None:
    assert ParamInfo("name", kind, "", "").choices == choices


def test_the_help_of_method_names_stacks() -> None:
    assert "NAME+NAME" in METHOD_HELP


def test_lists_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, output("list", "datasets").splitlines())) <= 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("description: Two words\nmodels: []", "Two words"),
        ("# A comment.\ndescription: >\n  Folded\n  text\n", "Folded text"),
        ("# Says what it is.\n# More.\nmodels: []", "Says what it is."),
        ("models: []", ""),
        ("", ""),
    ],
)
def test_a_suite_describes_itself(text: str, expected: str) -> None:
    assert list_command.description(text) == expected


def test_no_command_loads_pytorch(group: list[Run]) -> None:
    commands = [
        ["list", "methods"],
        ["list", "models"],
        ["list", "suites"],
        ["list", "datasets"],
        ["list", "metrics"],
        ["show", "quickstart"],
        ["show", "quickstart", "--json"],
        ["new-method", "one-more"],
    ]
    code = f"""
import sys, typer
from typer.testing import CliRunner
from tta_bench.cli import list as list_command, new_method, show
assert not {{"numpy", "rich", "yaml"}} & set(sys.modules), "imported before a command runs"
app = typer.Typer()
app.command("show")(show.show)
app.command("new-method")(new_method.new_method)
app.add_typer(list_command.app, name="list")
for words in {commands!r}:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.exception)
    loaded = {{"torch", "transformers", "datasets", "pandas", "pyarrow"}} & set(sys.modules)
    assert not loaded, (words, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# show


def test_show_prints_the_table_of_a_group(group: list[Run]) -> None:
    text = output("show", "quickstart")
    assert "smollm2-135m on builtin:stdlib" in text
    assert "fwl:lr=0.1" in text
    assert text == output("show", "results/quickstart")
    assert "there is nothing to compare with" in output("show", str(group[1].path))
    assert "doc3.py" not in text
    assert "doc3.py" in output("show", "quickstart", "--documents")


def test_show_prints_json_in_one_line(group: list[Run]) -> None:
    lines = output("show", "quickstart", "--json").splitlines()
    rows = json.loads(lines[-1])["rows"]
    assert len(lines) == 1
    assert [row["method"] for row in rows] == ["none", "fwl:lr=0.1"]
    assert [len(row["documents"]) for row in rows] == [4, 4]


def test_show_writes_other_formats(group: list[Run]) -> None:
    assert "| none |" in output("show", "quickstart", "--format", "markdown")
    assert r"\toprule" in output("show", "quickstart", "--format", "latex")
    lines = list(csv.DictReader(io.StringIO(output("show", "quickstart", "--format", "csv"))))
    assert [line["method"] for line in lines] == ["none", "fwl:lr=0.1"]
    both = output("show", "quickstart", "--format", "csv", "--documents")
    summary, documents = both.split("\n\n")
    assert len(list(csv.reader(io.StringIO(summary)))) == 1 + 2
    assert len(list(csv.reader(io.StringIO(documents)))) == 1 + 8


def test_show_knows_what_was_meant(group: list[Run]) -> None:
    with pytest.raises(UsageError, match="did you mean 'quickstart'"):
        output("show", "quickstrat")


def test_show_needs_no_vectors(group: list[Run]) -> None:
    before = output("show", "quickstart")
    for run in group:
        for path in (run.path / "nll").iterdir():
            path.unlink()
    assert output("show", "quickstart") == before


# new-method


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new plugin, known to the registry for the length of a test."""
    monkeypatch.setattr(registry, "_plugin_files", {})
    monkeypatch.chdir(tmp_path)
    text = output("new-method", "bag-of-words")
    assert "tta-bench eval --plugin bag_of_words.py --method none --method bag-of-words" in text
    file = tmp_path / "bag_of_words.py"
    assert registry.add_plugin(file) == ["bag-of-words"]
    return file


def test_a_new_method_works_as_it_is(plugin: Path, llama: LanguageModel) -> None:
    documents = [random_document(f"doc{i}", 60 + i, i) for i in range(3)]
    none = run_method(make_method(llama, "none"), documents)
    method = make_method(llama, "bag-of-words", weight=0.5)
    found = run_method(method, documents)
    assert type(method).__name__ == "BagOfWords"
    gains = [none[key].mean() - found[key].mean() for key in none]
    assert min(gains) > 0.1  # the documents repeat a phrase
    for key in none:
        assert found[key][:16] == pytest.approx(none[key][:16], abs=1e-5)  # nothing learned yet


def test_a_new_method_keeps_the_rules(plugin: Path, llama: LanguageModel) -> None:
    documents = [random_document(f"doc{i}", 60 + i, i) for i in range(3)]
    none = run_method(make_method(llama, "none"), documents)
    off = run_method(make_method(llama, "bag-of-words", weight=0.0), documents)
    one = run_method(make_method(llama, "bag-of-words"), documents)
    three = run_method(make_method(llama, "bag-of-words", lanes=3), documents)
    alone = run_method(make_method(llama, "bag-of-words"), documents[2:])
    for key in none:
        assert (off[key] == none[key]).all()  # off means off
        assert three[key] == pytest.approx(one[key], abs=1e-5)  # lanes are strangers
    assert (alone["doc2"] == one["doc2"]).all()  # reset is real


def test_a_new_method_describes_itself(plugin: Path) -> None:
    info = registry.available()["bag-of-words"]
    assert (info.family, info.params[0].name) == ("output", "weight")
    assert "Unigram cache" in info.summary
    assert "my-method" not in plugin.read_text()


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        output("new-method", "mine", "--output", str(file))
    assert file.read_text() == "precious"


@pytest.mark.parametrize("name", ["My-Method", "a b", "1st", "a:b", "", "a--b", "../x", "ünder"])
def test_names_that_cannot_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="cannot be a method's name"):
        output("new-method", name)
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_use_is_refused() -> None:
    with pytest.raises(UsageError, match="there is a method 'neural-cache' already"):
        output("new-method", "neural-cache")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be written: No such file"):
        output("new-method", "x", "--output", str(tmp_path / "no" / "x.py"))


@pytest.mark.parametrize("name", ["window", "scores", "true", "method"])
def test_names_of_the_template_do_not_collide(name: str) -> None:
    source = new_method.source(name)
    compile(source, name, "exec")
    assert f"class {name.capitalize()}Method(Method):" in source
