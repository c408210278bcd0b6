"""Files that change under a run: it ends with a sentence about the file, and no row is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tta_bench.contract import registry
from tta_bench.errors import ChangedError
from tta_bench.evaluation import verdict
from tta_bench.evaluation.execute import run_suite
from tta_bench.evaluation.probed import Probed
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.suite import Suite
from tta_bench.model.load import load_tokenizer
from tta_bench.store import Run, load_run

PLUGIN = """
import hashlib
from pathlib import Path
from tta_bench import Method, register

@register("changes-files")
class ChangesFiles(Method):
    family = "output"
    on_build = staticmethod(lambda: None)
    file = None

    @classmethod
    def artifacts(cls, params, model):
        if cls.file is None:
            return {}
        return {"table": hashlib.sha256(cls.file.read_bytes()).hexdigest()}

    def prepare(self):
        self.on_build()

    def score(self, window):
        return self.model.logits(window)
"""


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(text_of(number))
    return folder


def text_of(number: int) -> str:
    return f"Number {number}. " + "The dog sleeps. " * 9


@pytest.fixture
def method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class of a method that changes files when a test tells it to."""
    monkeypatch.setattr(registry, "_plugin_files", {})
    passed = Probed(True, (), None)  # probes take long, and look at no file
    monkeypatch.setattr(verdict, "probed", lambda choice: passed)
    (tmp_path / "changes.py").write_text(PLUGIN)
    registry.add_plugin(tmp_path / "changes.py")
    return registry.load("changes-files")


def evaluate(texts: Path) -> tuple[list[Run], list[str]]:
    """The runs, and what the user was told."""
    told: list[str] = []
    progress = Progress(quiet=True)
    progress.note = told.append  # type: ignore[method-assign]
    suite = Suite(
        datasets=[str(texts)],
        methods=["changes-files"],
        protocol={"chunk": 32},
        device="cpu",
        lanes="1",
        audit="off",
    )
    results = texts.parent / "results"
    paths = list(run_suite(suite, progress, results=results))  # each is told as it begins
    return [load_run(path) for path in paths], told


def stored(texts: Path) -> Run:
    (manifest,) = (texts.parent / "results").glob("*/*/manifest.json")
    return load_run(manifest.parent)


def test_token_ids_that_change_under_a_run(texts: Path, method: Any) -> None:
    (whole,), _ = evaluate(texts)
    expected = [whole.nll(row).tobytes() for row in whole.rows]
    group = whole.path.parent
    group.rename(group.parent.parent / "before")

    def change() -> None:
        (arrow,) = (texts.parent / "cache").glob("tokenized/*/documents.arrow")
        data = arrow.read_bytes()
        ids = np.asarray(load_tokenizer("builtin:tiny")(text_of(2))["input_ids"], "<i4").tobytes()
        assert ids in data
        arrow.write_bytes(data.replace(ids, bytes(4) + ids[4:]))

    method.on_build = staticmethod(change)
    with pytest.raises(ChangedError, match="cache of token ids was changed while it was read"):
        evaluate(texts)
    broken = stored(texts)
    assert broken.status == "error"
    assert "cache of token ids was changed" in broken.summary["reason"]
    assert [row.index for row in broken.rows] == [0, 1]
    for row in broken.rows:
        assert (row.status, broken.nll(row).tobytes()) == ("done", expected[row.index])

    method.on_build = staticmethod(lambda: None)
    (again,), told = evaluate(texts)
    assert any("was damaged; it is made again" in note for note in told)
    assert again.status == "complete"
    assert [again.nll(row).tobytes() for row in again.rows] == expected


def test_a_file_that_a_method_loads_changes_before_it_is_loaded(texts: Path, method: Any) -> None:
    method.file = texts.parent / "table.json"
    method.file.write_text("one")
    method.on_build = staticmethod(lambda: method.file.write_text("two"))
    with pytest.raises(ChangedError, match="A file that changes-files loads was changed"):
        evaluate(texts)
    assert stored(texts).rows == ()
    (run,), _ = evaluate(texts)  # what is there now has a key of its own
    assert len(run.rows) == 3
    assert len(list((texts.parent / "results").glob("*/*/manifest.json"))) == 2
