"""`eval` on streams with a known best reader: grades, a leak, and the suite."""

from __future__ import annotations

import json
from pathlib import Path

from command import Command
from slow import slow

from tta_bench.evaluation.suite import installed_suites, load_suite
from tta_bench.oracle.spec import NAMES

CHEAT = """
import torch
from tta_bench import Method, register
@register("cheat")
class Cheat(Method):
    def score(self, window):
        logits = self.model.logits(window).full()
        ids = window.chunk_ids
        return logits + 30 * torch.nn.functional.one_hot(ids.roll(-1, 1), logits.shape[-1])
"""


def rows_of(stdout: str) -> dict[str, dict]:
    return {row["method"]: row for row in json.loads(stdout.strip().split("\n")[-1])["rows"]}


def test_a_stream_is_read_as_any_dataset(tta_bench: Command, tmp_path: Path) -> None:
    words = ["--dataset", "oracle:nothing", "--limit", 2, "--max-tokens", 200, "--audit", "off"]
    done = tta_bench("eval", *words, "--method", "none", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = rows_of(done.stdout)["none"]
    assert [document["key"] for document in row["documents"]] == ["nothing/0", "nothing/1"]
    assert row["tokens"] == 400
    assert row["regret"] > row["regret_learning"] > 0
    assert row["bits_per_byte"] is None
    assert row["partial"] is False  # a stream has no whole
    manifest = json.loads((tmp_path / row["run"] / "manifest.json").read_text())
    assert 2000 < manifest["dataset"]["vocabulary"] < 4096


@slow
def test_methods_are_graded_and_a_leak_is_found(tta_bench: Command, tmp_path: Path) -> None:
    (tmp_path / "cheat.py").write_text(CHEAT)
    words = ["--plugin", "cheat.py", "--dataset", "oracle:nothing", "--limit", 1]
    words += ["--max-tokens", 384, "--chunk", 64, "--json"]
    words += [word for name in ("none", "ngram", "cheat") for word in ("--method", name)]
    done = tta_bench("eval", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = rows_of(done.stdout)
    assert 0 < rows["ngram"]["share"] < 1
    assert rows["ngram"]["regret"] < rows["none"]["regret"]
    assert rows["none"]["valid"] is rows["ngram"]["valid"] is True
    assert rows["cheat"]["share"] > 1
    assert rows["cheat"]["valid"] is False
    summary = json.loads((tmp_path / rows["cheat"]["run"] / "summary.json").read_text())
    assert "leak" in summary["rules_broken"]


def test_the_suite_has_every_stream() -> None:
    suite = load_suite("oracle")
    assert suite.datasets == [f"oracle:{name}" for name in NAMES]
    assert suite.methods[0] == "none"
    assert "oracle" in installed_suites()


@slow
def test_every_method_of_the_suite_runs_on_a_stream(tta_bench: Command, tmp_path: Path) -> None:
    words = ["--suite", "oracle", "--dataset", "oracle:recall", "--limit", 1, "--max-tokens", 300]
    done = tta_bench("eval", *words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = rows_of(done.stdout)
    assert len(rows) == len(load_suite("oracle").methods)
    assert all(row["valid"] for row in rows.values())
    assert [name for name, row in rows.items() if row["share"] is None] == ["none"]


def test_a_stream_that_is_not_there_is_one_sentence(tta_bench: Command, tmp_path: Path) -> None:
    done = tta_bench("eval", "--dataset", "oracle:unigrm", "--method", "none", cwd=tmp_path)
    assert done.returncode != 0
    assert "did you mean 'oracle:unigram'" in done.stderr
    assert "Traceback" not in done.stderr
