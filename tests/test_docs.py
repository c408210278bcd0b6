"""The pages match the project: tables, figures, commands, links, and the names of files."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import typer
import yaml
from one_process import run_lines
from slow import slow
from typer.testing import CliRunner

from tta_bench import SlowWeights
from tta_bench.cli.main import app
from tta_bench.statistics import paired_difference
from tta_bench.store import find_runs, load_group, load_run
from tta_bench.training.recipe import Recipe, Schedule
from tta_bench.validity.probes import FULL, QUICK

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
IDS = list(TEXT)
TABLES = {
    name: table
    for text in TEXT.values()
    for name, table in re.findall(
        r"<!-- table: (\S+) -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL
    )
}
ARCHITECTURE = TEXT["docs/architecture.md"]


def commands(text):
    """Commands in blocks, whole; synopses with brackets and dots are left out."""
    found = re.findall(r"^(tta-bench .*)$", text, re.MULTILINE)
    return [command for command in found if not re.search(r"[\[|]|\.\.\.", command)]


def mentions(text):
    """Commands between backticks, which may lack what they need."""
    return [" ".join(words.split()) for words in re.findall(r"`(tta-bench [^`]+)`", text)]


# Tables and figures


def test_the_pages_show_tables():
    assert {"quickstart", "headline", "headline-smollm2", "speed-smollm2"} <= set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_the_stored_rows_give(name):
    where = ["--results", str(ROOT / "results")]
    done = CliRunner().invoke(app, ["show", name, "--format", "markdown", *where])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == TABLES[name]


def test_paired_differences_of_the_headline():
    """`fwl` against its control, dynamic evaluation and twice the context, on every text."""
    compared = {
        "headline": ("fwl:weights=control", "dynamic-eval:lr=0.0001", "window:context=256"),
        "headline-smollm2": ("fwl:weights=control", "dynamic-eval:lr=0.0002", "window"),
    }
    lines = []
    for group, others in compared.items():
        runs = {}
        for name in (group, "headline-wikitext") if group == "headline" else (group,):
            for run in load_group(find_runs(name, ROOT / "results", published=True)):
                texts = run.manifest["dataset"]["spec"].removeprefix("lf:").split(":")[0]
                runs[texts, run.spec] = run
        model = run.manifest["model"]["name"]
        for other in others:
            cells = []
            for texts in ("npm", "pypi", "debian", "wikitext"):
                if (texts, "fwl") not in runs:
                    cells.append("—")
                    continue
                pair = paired_difference(runs[texts, "fwl"].rows, runs[texts, other].rows)
                cells.append(f"{pair.delta:+.3f} ±{half_width(pair):.3f}")
            lines.append(f"| `{other}`, {model} | {' | '.join(cells)} |")
    assert "\n".join(lines) in TEXT["docs/headline.md"]


def half_width(pair):
    return (pair.interval[1] - pair.interval[0]) / 2


def test_figures_of_other_tools_are_those_of_the_golden_file():
    reference = json.loads((ROOT / "tests/golden/perplexity/reference.json").read_text())
    lm_eval = reference["lm-eval 0.4.13 loglikelihood_rolling, prefix token id 1"]
    guide = reference["Hugging Face guide, concat.txt"]["W512 s256"]
    llama = reference["llama-perplexity, F32 GGUF, KV f32, -fa off, concat.txt"]["-c 512"]
    krause = reference["dynamic-eval-gpt-2 windows, no adaptation, concat.txt"]["block 512"]
    shown = re.findall(r"^\| .* \| ([\d.]+) \|$", TEXT["docs/protocol.md"], re.MULTILINE)
    expected = (lm_eval["max_length 512"]["token_ppl"], llama["ppl"], guide["true_ppl"])
    assert shown == [f"{value:.4f}" for value in (*expected, krause["ppl"])]


# Commands


def command_of(words):
    """The command that words begin with, and the words after its name."""
    found = typer.main.get_command(app)
    while hasattr(found, "commands") and words and not words[0].startswith("-"):
        assert words[0] in found.commands, words
        found, words = found.commands[words[0]], words[1:]
    return found, words


@pytest.mark.parametrize("page", IDS)
def test_commands_can_be_parsed(page):
    for line in commands(TEXT[page]):
        command, words = command_of(shlex.split(line, comments=True)[1:])
        with command.make_context(command.name, words) as context:
            assert context is not None


@pytest.mark.parametrize("page", IDS)
def test_commands_and_options_in_the_text_exist(page):
    for line in mentions(TEXT[page]):
        command, words = command_of(line.split()[1:])
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        options = [word.strip("[]") for word in words]
        assert {word for word in options if word.startswith("--")} <= known, line


CHEAP = [
    command
    for command in commands(TEXT["docs/protocol.md"])
    if command.startswith("tta-bench eval --dataset")
]


@slow
@pytest.mark.parametrize("command", CHEAP)
def test_a_command_of_the_protocols_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output


OUTPUTS = [
    (command, output)
    for text in TEXT.values()
    for command, output in re.findall(r"```console\n\$ (tta-bench .*)\n((?:.*\n)*?)```", text)
]


@pytest.mark.parametrize(("command", "output"), OUTPUTS)
def test_what_a_page_shows_is_what_the_command_prints(command, output):
    where = ["--results", str(ROOT / "results")]
    called = CliRunner().invoke(app, [*shlex.split(command)[1:], *where], env={"COLUMNS": "100"})
    assert called.exit_code == 0, called.output
    lines = [line.rstrip() for line in called.stdout.strip().splitlines()]
    assert lines == output.splitlines()


def test_pages_show_what_commands_print():
    shown = " ".join(command for command, _ in OUTPUTS)
    assert all(option in shown for option in ("--columns", "--budget", "--frontier", "--curve"))
    assert "--caption" in shown


READING = ("show", "compare", "runs", "export", "list")
ON_STORED_RUNS = [
    line
    for name in ("docs/results.md", "docs/paper.md", "docs/statistics.md")
    for line in [*commands(TEXT[name]), *mentions(TEXT[name])]
    if line.split()[1] in READING and re.search(r"quickstart|frontier|headline", line)
]


@pytest.mark.parametrize("line", ON_STORED_RUNS)
def test_a_command_on_committed_runs_runs(line):
    where = ["--results", str(ROOT / "results")]
    done = CliRunner().invoke(app, [*shlex.split(line)[1:], *where])
    assert done.exit_code == 0, done.output


@slow
def test_a_method_is_compared_as_its_page_says(tmp_path):
    """Its commands as written, one after another, on fewer and shorter documents."""
    lines = [
        line.replace("--limit 4 --max-tokens 2048", "--limit 2 --max-tokens 512")
        for line in commands(TEXT["docs/compare.md"])
    ]
    assert {line.split()[1] for line in lines} == {
        *("new-method", "check", "eval", "compare", "show", "report", "reproduce"),
    }
    run_lines(lines, tmp_path)
    runs = {run.spec: run for run in map(load_run, sorted((tmp_path / "results/mine").glob("*-*")))}
    assert all(run.summary["valid"] for run in runs.values())
    off = paired_difference(runs["my-method:weight=0"].rows, runs["none"].rows)
    assert off.delta == 0, "off means off"
    assert (tmp_path / "mine.html").is_file()


# Links and names


@pytest.mark.parametrize("page", IDS)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    prose = re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        path = (folder / file).resolve() if file else ROOT / page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
            assert heading in anchors, target


@pytest.mark.parametrize("page", IDS)
def test_files_that_a_page_names_exist(page):
    rooms = r"(?:tta_bench|methods|suites|tests|docs)"
    for name in re.findall(rf"`({rooms}/[\w./-]+)`", TEXT[page]):
        assert (ROOT / name).exists(), name


def test_every_page_is_on_the_menu():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", TEXT["docs/README.md"]))
    assert linked == {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}


# The tree of the architecture page


def tree():
    """The paths of the tree on the page: folders end in a slash."""
    (block,) = re.findall(r"## Rooms\n\n```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    parents: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.findall(r"\S+", line[:20]):
            if depth == 0 and not name.endswith("/"):
                break
            del parents[depth:]
            parents.append(name)
            yield "".join(parents)
            break


def test_the_tree_on_the_page_is_there():
    named = list(tree())
    assert len(named) > 25
    for name in named:
        path = ROOT / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name


def test_every_package_is_on_the_page():
    packages = {
        path.parent.relative_to(ROOT).as_posix() + "/"
        for top in ("tta_bench", "methods")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert packages - set(tree()) == set()


def test_the_floors_on_the_page_are_those_of_the_linter():
    (page,) = re.findall(r"^    (cli > .*?)\n\n", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (layers,) = re.findall(r"^layers = \[\n(    \"cli\".*?)^\]", text, re.MULTILINE | re.DOTALL)
    floors = [floor.split(" | ") for floor in re.findall(r'"(.*)"', layers)]
    assert [floor.split(", ") for floor in " ".join(page.split()).split(" > ")] == floors


# The table of probes, and that of a recipe's keys


def test_every_probe_is_in_the_table():
    rows = re.findall(r"^\| `([\w -]+)` \| (•?) *\|", TEXT["docs/validity.md"], re.MULTILINE)
    quick = {probe.name for probe in QUICK}
    assert rows == [(probe.name, "•" if probe.name in quick else "") for probe in FULL]


def test_every_key_of_a_recipe_is_in_the_table():
    rows = re.findall(r"^\| `([\w.]+)` \| (?:`(.*?)`)? *\|", TEXT["docs/heads.md"], re.MULTILINE)
    keys = [f"train.{field.name}" for field in fields(Schedule)]
    of_recipe = [field.name for field in fields(Recipe) if field.name not in ("name", "train")]
    assert [key for key, _ in rows] == [*of_recipe, *keys]
    for key, shown in rows:
        of, name = (Schedule, key[6:]) if key in keys else (Recipe, key)
        (default,) = [field.default for field in fields(of) if field.name == name]
        if shown:
            expected = list(default) if isinstance(default, tuple) else default
            assert yaml.safe_load(shown) == expected, key
        else:
            assert not default, key


# The trained head of its page


@slow
def test_the_head_of_the_page_is_checked_trained_and_evaluated(tmp_path):
    """Its commands as written, one after another, on fewer steps and shorter texts."""
    page = TEXT["docs/heads.md"].partition("\n## Several heads\n")[0]
    (plugin,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "fast_layer.py").write_text(plugin)
    short = {"steps": 3, "lanes": 2, "segment": 128, "windows": [64], "chunk": 32}
    values = yaml.safe_load(recipe)
    assert set(short) <= set(values["train"])
    values |= {"dataset": "builtin:pydoc", "train": values["train"] | short}
    (tmp_path / "fast_layer.yaml").write_text(yaml.safe_dump(values))
    lines = [
        line.replace("--limit 3 --max-tokens 2048", "--limit 1 --max-tokens 512")
        for line in commands(page)
    ]
    assert [line.split()[1] for line in lines] == ["check", "train", "train", "eval", "compare"]
    run_lines(lines, tmp_path)
    weights = {
        name: SlowWeights.describe(tmp_path / "results/train" / name / "weights.safetensors")
        for name in ("fast_layer", "fast_layer-control")
    }
    assert {name: about.options["fast"] for name, about in weights.items()} == {
        "fast_layer": True,
        "fast_layer-control": False,
    }
    (group,) = [path for path in (tmp_path / "results").iterdir() if path.name != "train"]
    runs = {run.spec: run for run in map(load_run, sorted(group.glob("fast-layer*")))}
    assert len(runs) == 2
    assert all(run.status == "complete" for run in runs.values())
