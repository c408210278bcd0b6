"""`tta-bench audit` judges runs that are stored, and keeps the verdict with them."""

import json

import pytest
from slow import slow

from tta_bench.store import load_run

TEXT = "The quick brown fox jumps over the lazy dog, and dog {} sleeps on for {} hours. "

PEEKS = """
from tta_bench import Method, register

@register("late-peek")
class LatePeek(Method):
    family = "output"

    def score(self, window):
        logits = self.below.score(window).full().clone()
        for lane, count in window.scored_lanes():
            for column in range(count - 1):
                logits[lane, column, window.chunk_ids[lane, column + 1]] += 3.0 * (column > 20)
        return logits
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(2):
        words = "".join(TEXT.format(i, n * 7 % 23) for n in range(30))
        (tmp_path / "texts" / f"{i}.txt").write_text(words)
    (tmp_path / "peek.py").write_text(PEEKS)
    return tmp_path


@slow
def test_runs_are_audited_after_the_fact(tta_bench, folder):
    done = tta_bench(
        *("eval", "--dataset", "texts", "--chunk", 64, "--max-tokens", 192, "--name", "it"),
        *("--plugin", "peek.py", "--method", "none", "--method", "late-peek", "--audit", "off"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    paths = {path.name.rpartition("-")[0]: path for path in (folder / "results/it").iterdir()}
    before = load_run(paths["none"]).summary
    assert before["valid"] is None
    assert before["audit"] is None

    where = ("--results", folder / "results", "--debug")
    printed = tta_bench("audit", f"it/{paths['none'].name}", *where, cwd=folder)
    assert printed.returncode == 0, printed.stderr
    assert "nothing to learn" in printed.stdout
    after = load_run(paths["none"]).summary
    assert after["valid"] is True
    kept = {name: value for name, value in after.items() if before.get(name) == value}
    assert {"seconds", "status", "flops_per_token", "ended"} <= kept.keys()

    told = tta_bench("audit", "it", "--plugin", "peek.py", "--json", cwd=folder)
    assert told.returncode == 1
    verdicts = {
        run["run"].split("/")[-1].rpartition("-")[0]: run
        for run in json.loads(told.stdout.splitlines()[-1])["runs"]
    }
    assert verdicts["none"]["valid"] is True
    assert verdicts["late-peek"]["valid"] is False
    assert "nothing to learn" in verdicts["late-peek"]["rules_broken"]
    shown = tta_bench("show", "it", cwd=folder).stdout
    assert "late-peek (NOT VALID)" in " ".join(shown.split())


def test_an_unfinished_run_is_refused_in_a_sentence(tta_bench, folder):
    done = tta_bench("audit", "nothing-here", cwd=folder)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


@slow
def test_eval_says_how_the_probes_ran_a_method(tta_bench, folder):
    done = tta_bench(
        *("eval", "--dataset", "texts", "--chunk", 64, "--max-tokens", 128, "--name", "probed"),
        *("--method", "fwl", "--limit", 1, "--audit", "off"),
        cwd=folder,
    )
    assert "fwl: probed with weights=random in place of trained." in done.stderr + done.stdout
    (path,) = (folder / "results/probed").iterdir()
    assert load_run(path).summary["probed"] == ["probed with weights=random in place of trained."]
