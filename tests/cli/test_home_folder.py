"""`~` in `--name=~/folder`, which a shell does not replace, and in a suite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import Command

from tta_bench.fetch.packages import cache_folder
from tta_bench.model.load import load_tokenizer
from tta_bench.model.locate import built_in_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("TTA_BENCH_CACHE", str(cache_folder()))  # which lies in the real home
    monkeypatch.setenv("HOME", str(folder))
    shutil.copytree(built_in_folder("tiny"), folder / "model")
    (folder / "a.txt").write_text("hello world, hello there, and hello to you")
    (folder / "mine.py").write_text(
        "from tta_bench import Method, register\n\n\n"
        '@register("at-home")\nclass AtHome(Method):\n    """Nothing."""\n\n'
        "    def score(self, window):\n        return self.model.logits(window)\n"
    )
    return folder


def test_the_home_folder_in_options(home: Path, tmp_path: Path, tta_bench: Command) -> None:
    options = ("--model=~/model", "--dataset=~/a.txt", "--results=~/runs", "--plugin=~/mine.py")
    done = tta_bench("eval", *options, "--audit=off", "--name=g", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((home / "runs" / "g").iterdir())) == 1
    assert tta_bench("show", "~/runs/g", cwd=tmp_path).returncode == 0


def test_the_home_folder_in_a_suite(home: Path, tmp_path: Path, tta_bench: Command) -> None:
    (home / "s.yaml").write_text(
        "models: [~/model]\ndatasets: [~/a.txt]\nmethods: [none]\naudit: 'off'\n"
    )
    done = tta_bench("eval", "--suite=~/s.yaml", "--results=~/runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_tokenizer("~/model").bos_token == "<|bos|>"
