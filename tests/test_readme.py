"""What README and docs show is what the commands give: their tables, and the README's commands."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + "".join(p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("docs/*.md")))
TABLES = dict(re.findall(r"<!-- table: (\S+) -->\n\n(.*?)\n\n<!-- end -->", PAGES, re.DOTALL))
COMMANDS = re.findall(r"^(tta-bench [^`\n]*)$", README, re.MULTILINE)


def test_there_are_tables_and_commands():
    assert "quickstart" in TABLES
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_the_stored_rows_give(tta_bench, name):
    done = tta_bench("show", name, "--format", "markdown", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == TABLES[name]


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_runs_as_written(tta_bench, command, tmp_path):
    """As written, but the built-in model stands in for the one that takes minutes."""
    words = shlex.split(command, comments=True)[1:]
    if words[0] == "new-method":
        words[-1] = words[-1].lower()
    if "--plugin" in words:
        (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        (tmp_path / "my_method.py").write_text(block)
    if "smollm2-135m" in words:
        words[words.index("smollm2-135m")] = "builtin:tiny"
        words += ["--limit", "1", "--max-tokens", "64", "--chunk", "32"]
    if words[0] == "report":
        words += ["-o", str(tmp_path / "report.html")]
    stored = words[0] in ("show", "compare", "runs", "report")
    done = tta_bench(*words, cwd=ROOT if stored else tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_default_suite_is_the_committed_one():
    """The quickstart table comes from the suite as it is now, methods and limits included."""
    import json

    from tta_bench.evaluation.suite import load_suite

    suite = load_suite("quickstart")
    manifests = [
        json.loads(path.read_text()) for path in ROOT.glob("results/quickstart/*/manifest.json")
    ]
    assert len(manifests) == len(suite.methods)
    for manifest in manifests:
        assert manifest["config"]["methods"] == suite.methods
        assert manifest["config"]["protocol"] == suite.protocol
        assert manifest["dataset"]["max_tokens"] == suite.max_tokens
