"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from command import tta_bench as tta_bench
from hostile import ESCAPE, HOSTILE
from hypothesis import HealthCheck, settings
from slow import is_slow, skip_if_late
from tiny import random_document, tiny_model
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.documents import TokenizedDocument
from tta_bench.model.language_model import LanguageModel

# The same examples every time, and no complaint about a machine that is busy with something else.
settings.register_profile(
    "tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

torch.set_num_threads(1)  # tiny models: a second thread costs more than it gives


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that take long behind all others: where time runs out, it is theirs."""
    items.sort(key=is_slow)


def pytest_collection_finish() -> None:
    """Sets aside what the imports and the tests are made of: every run collects garbage thrice."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before fixtures are made, which may be what takes long
def pytest_runtest_setup(item: pytest.Item) -> None:
    skip_if_late(item)


@pytest.fixture(scope="session")
def llama() -> LanguageModel:
    return tiny_model("llama")


@pytest.fixture
def documents() -> list[TokenizedDocument]:
    """Five documents; one ends in mid chunk, one is shorter than a chunk."""
    lengths = [64, 50, 7, 33, 48]
    return [random_document(f"doc{i}", n, i) for i, n in enumerate(lengths)]


@pytest.fixture(scope="session")
def hostile_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group of real runs on texts of which one wants to be a script, and so does its name."""
    home = tmp_path_factory.mktemp("report")
    texts = home / "texts"
    texts.mkdir()
    for number in range(3):
        words = f"Number {number} is naïve. " + "The lazy dog sleeps, and the fox jumps. " * 30
        (texts / f"{number}.txt").write_text(words, encoding="utf-8")
    hostile = f"{HOSTILE}{ESCAPE}\u202e" + "All work and no play, says the fox. " * 30
    (texts / f"<img src=x onerror=planted=1>{ESCAPE}.txt").write_text(hostile, encoding="utf-8")
    methods = ("none", "neural-cache", "dynamic-eval:subset=mlp")
    command = ["eval", "--dataset", str(texts), "--chunk", "64", "--max-tokens", "200"]
    command += [word for method in methods for word in ("--method", method)]
    command += ["--name", "mine", "--results", str(home / "results"), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return home / "results" / "mine"
