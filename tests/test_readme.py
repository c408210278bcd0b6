"""The README keeps its promises: its commands run as written, its figures are in stored rows."""

import json
import re
import shlex
from pathlib import Path

import pytest
from fast_heads import LEARNED
from one_process import run_lines
from slow import slow
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.evaluation.suite import load_suite
from tta_bench.statistics import paired_difference
from tta_bench.store import find_runs, load_group

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEADLINE = " ".join((ROOT / "docs" / "headline.md").read_text(encoding="utf-8").split())
SENTENCES = " ".join(README.split())
COMMANDS = re.findall(r"^(tta-bench [^`\n]*)$", README, re.MULTILINE)
PUBLISHED = [line for line in COMMANDS if "mine" in line]  # one after another, to a table
BOOKS, CODE, MANUALS, WIKI = "npm", "pypi", "debian", "wikitext-2-valid"


def test_it_is_two_screens_long():
    assert 6_000 <= len(README.encode()) < 9_000


@pytest.fixture
def folder(tmp_path):
    """Where a reader of the README stands: texts, a table, a plugin; a folder plays the hub."""
    text = "The fox jumps over the lazy dog, and the dog sleeps on. " * 40
    books = [{"title": f"book {i}", "body": text[i:]} for i in range(2)]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text(text)
    (tmp_path / "texts" / "two.md").write_text(text[9:])
    (tmp_path / "books.jsonl").write_text("".join(json.dumps(book) + "\n" for book in books))
    hub = tmp_path / "emozilla" / "pg19"
    hub.mkdir(parents=True)
    (hub / "test.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (plugin,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(plugin.strip().split("\n")) <= 15
    (tmp_path / "my_method.py").write_text(plugin)
    return tmp_path


def test_every_kind_of_command_is_there():
    assert [command.split()[1] for command in COMMANDS].count("eval") == 5
    assert [command.split()[1] for command in PUBLISHED] == ["tune", "eval", "compare", "export"]
    assert any(command.startswith("tta-bench check") for command in COMMANDS)


ALONE = [line for line in COMMANDS if "--plugin" not in line and line not in PUBLISHED]


@slow
@pytest.mark.parametrize("command", ALONE)
def test_a_command_runs_as_written(command, folder, monkeypatch):
    """As written, but the built-in model stands in for the one that has to be downloaded."""
    words = shlex.split(command)[1:]
    if "smollm2-135m" in words:
        words[words.index("smollm2-135m")] = "builtin:tiny"
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


@slow
def test_it_ends_in_a_tuned_table_in_latex(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for command in PUBLISHED:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
    table = (folder / "mine.tex").read_text()
    assert "dynamic-eval" in table
    assert "tuned over" in table


@slow
def test_the_plugin_runs_as_written(folder):
    """In a process of its own, where a plugin stays known for good."""
    run_lines([line for line in COMMANDS if "--plugin" in line], folder)


def test_the_default_suite_is_the_committed_one():
    """The quickstart's table comes from the suite as it is now, methods and limits included."""
    suite = load_suite("quickstart")
    manifests = [
        json.loads(path.read_text()) for path in ROOT.glob("results/quickstart/*/manifest.json")
    ]
    assert len(manifests) == len(suite.methods)
    for manifest in manifests:
        assert manifest["config"]["methods"] == suite.methods
        assert manifest["config"]["protocol"] == suite.protocol
        assert manifest["dataset"]["max_tokens"] == suite.max_tokens


def test_the_table_of_methods_is_whole_and_right():
    shown = dict(re.findall(r"^\| `([\w-]+)` \| (\w+) \|", README, re.MULTILINE))
    sources = [path.read_text() for path in (ROOT / "methods").rglob("*.py")]
    registered = [
        name for text in sources for name in re.findall(r'^@register\("(.+)"\)', text, re.M)
    ]
    # Trained methods stand below the table.
    assert set(shown) == set(registered) - set(LEARNED)
    below = README.partition("Trained, with weights for the built-in model:")[2].partition("\n\n")[
        0
    ]
    assert set(re.findall(r"`([\w-]+)`", below)) >= set(LEARNED)
    listed = json.loads(CliRunner().invoke(app, ["list", "methods", "--json"]).stdout)["methods"]
    families = {method["name"]: method["family"] for method in listed}
    assert shown == {name: families[name] for name in shown}


def runs_of(group):
    """The runs of a group by the registry their documents come from, and by method."""
    runs = load_group(find_runs(group, ROOT / "results", published=True))
    return {
        (run.manifest["dataset"]["spec"].removeprefix("lf:").split(":")[0], run.spec): run
        for run in runs
    }


def headline():
    """Those of the built-in model on all four kinds of text."""
    whole = runs_of("headline") | runs_of("headline-wikitext")
    return {
        (WIKI if texts == "wikitext" else texts, spec): run for (texts, spec), run in whole.items()
    }


def test_what_a_flop_is_best_spent_on_is_what_the_rows_say():
    def said(group, stack, window, kinds):
        """Perplexities below that of twice the context; and what the two and nothing cost."""
        runs = runs_of(group)
        pairs = [
            paired_difference(runs[texts, stack].rows, runs[texts, window].rows) for texts in kinds
        ]
        assert all(pair.interval[1] < 0 for pair in pairs)
        *below, last = (f"{100 * (1 - pair.ratio):.0f} %" for pair in pairs)
        flops = [runs[CODE, name].summary["flops_per_token"] for name in (stack, window, "none")]
        costs = [f"×{cost / flops[2]:.2f}" for cost in flops[:2]]
        return f"{', '.join(below)} and {last}", *costs

    stack = "streaming-llm+neural-cache+ngram"
    below, cost, window = said("frontier", stack, "window:context=256", (CODE, MANUALS, WIKI))
    assert (
        f"`{stack}` at {cost} the FLOPs of the frozen model has a perplexity {below} below that"
        in (SENTENCES)
    )
    assert f"(`window`) at {window}." in SENTENCES
    stack = "streaming-llm:recent=1020+fwl+neural-cache:weight=0.0125+ngram"
    kinds = (BOOKS, CODE, MANUALS)
    below, cost, window = said("frontier-smollm2", stack, "window:context=1024", kinds)
    assert f"it is {below} on books, code and manuals, at {cost} against {window}." in SENTENCES


def test_what_was_found_is_what_the_rows_say():
    runs = headline()
    kinds = (BOOKS, CODE, MANUALS, WIKI)

    def pair(texts, other):
        return paired_difference(runs[texts, "fwl"].rows, runs[texts, other].rows)

    below = [pair(texts, "fwl:weights=control") for texts in kinds]
    books, code, manuals, articles = (f"{100 * (1 - found.ratio):.0f} %" for found in below)
    assert f"{books}, {code}, {manuals} and {articles} below that of a control" in HEADLINE
    least, most = (f"{-end(found.delta for found in below):.2f}" for end in (max, min))
    assert f"on `builtin:tiny`, by {least} to {most} nats" in HEADLINE
    none, fwl, dynamic, window = (
        runs[CODE, method].summary["flops_per_token"]
        for method in ("none", "fwl", "dynamic-eval:lr=0.0001", "window:context=256")
    )
    share = 100 * (fwl - none) / (dynamic - none)
    assert f"for {share:.0f} % of the FLOPs that dynamic evaluation adds" in HEADLINE
    assert f"costs {100 * (window / fwl - 1):.0f} % more FLOPs than `fwl`" in HEADLINE
    # Ahead, level or behind, as the page says it of each.
    ahead = {
        other: [sides(pair(texts, other).interval) for texts in kinds]
        for other in ("dynamic-eval:lr=0.0001", "window:context=256", "neural-cache:weight=0.2")
    }
    assert ahead == {
        "dynamic-eval:lr=0.0001": ["behind", "level", "ahead", "behind"],
        "window:context=256": ["level", "level", "ahead", "ahead"],
        "neural-cache:weight=0.2": ["level", "ahead", "level", "behind"],
    }
    behind = [pair(texts, "dynamic-eval:lr=0.0001").delta for texts in (BOOKS, WIKI)]
    assert f"it is ahead, by {behind[0]:.2f} and {behind[1]:.2f} nats." in HEADLINE


def sides(interval):
    """What an interval of differences, negative where the first is better, says of the first."""
    low, high = interval
    return "ahead" if high < 0 else "behind" if low > 0 else "level"


def test_the_frozen_model_beats_its_control_where_the_readme_says():
    runs = runs_of("headline-smollm2")
    highest = {
        texts: paired_difference(
            runs[texts, "fwl"].rows, runs[texts, "fwl:weights=control"].rows
        ).interval[1]
        for texts in (BOOKS, CODE, MANUALS)
    }
    assert [texts for texts in highest if highest[texts] < 0] == [BOOKS, MANUALS]
    assert "`fwl` beats its control on books and manuals but not on code" in HEADLINE


def test_the_frozen_model_is_behind_dynamic_evaluation():
    runs = runs_of("headline-smollm2")
    for texts in (BOOKS, CODE, MANUALS):
        dynamic = runs[texts, "dynamic-eval:lr=0.0002"].rows
        assert paired_difference(runs[texts, "fwl"].rows, dynamic).interval[0] > 0
    assert "and is behind dynamic evaluation on all three." in HEADLINE


def test_the_cache_beside_fast_weights_is_what_the_rows_say():
    runs = headline()
    none, cache, fwl = (
        runs[CODE, method].summary["flops_per_token"]
        for method in ("none", "neural-cache:weight=0.2", "fwl")
    )
    assert f"at ×{cache / none:.2f} FLOPs where `fwl` is at ×{fwl / none:.2f}" in HEADLINE
    frozen = runs_of("headline-smollm2")
    for texts in (BOOKS, CODE, MANUALS):
        pair = paired_difference(frozen[texts, "fwl"].rows, frozen[texts, "neural-cache"].rows)
        assert pair.interval[1] < 0
