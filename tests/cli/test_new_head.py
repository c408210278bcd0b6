"""`new-method --trained`: a head and a recipe that train as they are, and the page that shows them.

The page's commands are run, all of them, by the tests of the pages.
"""

import re
import shlex
from pathlib import Path

import pytest

from tta_bench.cli import new_method


def test_a_new_head_trains_as_its_recipe_says(tmp_path, tta_bench):
    done = tta_bench("new-method", "small-block", "--trained", cwd=tmp_path)
    assert done.stdout.startswith("Wrote small_block.py and small_block.yaml. They run as they are")
    lines = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [words[1] for words in lines] == ["check", "train", "train", "eval", "compare"]
    (tmp_path / "text.txt").write_text("def number(x):\n    return x + 1\n" * 40)
    few = ("--dataset", "text.txt", "--steps", 2, "--lanes", 1, "--segment", 256)
    done = tta_bench(*lines[1][1:], *few, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--plugin" in done.stderr.splitlines()[-1]
    assert (tmp_path / lines[3][-1].partition("=")[2]).is_file()


def test_what_is_there_already_is_kept(tmp_path, tta_bench):
    (tmp_path / "mine.yaml").write_text("my own")
    done = tta_bench("new-method", "mine", "--trained", cwd=tmp_path)
    assert done.returncode == 2
    assert "mine.yaml exists; give another --output or remove it." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_the_page_shows_what_the_command_writes():
    page = (Path(__file__).parents[2] / "docs" / "heads.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert shown == new_method.source("fast-layer", trained=True)
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert shown == new_method.recipe("fast-layer", Path("fast_layer.py"))
    shown = re.findall(r"^tta-bench .*", page.partition("\n## Several heads\n")[0], re.MULTILINE)
    assert shown == new_method.trained_commands("fast-layer", Path("fast_layer.py"))


@pytest.mark.parametrize("name", ["head", "trained", "options", "f"])
def test_names_of_the_template_of_a_head_do_not_collide(name):
    source = new_method.source(name, trained=True)
    compile(source, name, "exec")
    assert f"class {name.capitalize()}Method(TrainedHead):" in source
