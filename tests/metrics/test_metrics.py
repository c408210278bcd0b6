"""Metrics as objects: what they say of stored runs, and those that other people bring."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import in_a_process
from stored_runs import make_row, store_run

from tta_bench.errors import MetricError, UsageError
from tta_bench.metrics import Metric, add_plugin, available, named, register_metric, registry
from tta_bench.store import Run
from tta_bench.tables import summary_rows, summary_tables

WORST = """
from tta_bench.metrics import Metric, register_metric


def worst(run, baseline):
    means = [row.nll / row.tokens for row in run.rows if row.status == "done"]
    return max(means, default=None)


WORST = Metric(
    "worst_document", worst, "worst document", "nats/token", better="lower", shown=False
)
"""
REGISTERED = WORST + "register_metric(WORST)\n"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers, or puts on the path, is gone after it."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_plugins", {})
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    group = tmp_path / "results" / "group"
    return [store_run(group), store_run(group, "fwl", 0.05)]


def install(folder: Path, target: str) -> None:
    """A package with the entry point `worst_document = TARGET`, as pip lays it out."""
    information = folder / "worst-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "worst_package.py").write_text(WORST)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: worst\nVersion: 1.0\n")
    points = f"[tta_bench.metrics]\nworst_document = {target}\n"
    (information / "entry_points.txt").write_text(points)


def worst_of(run: Run) -> float:
    return max(row.nll / row.tokens for row in run.rows if row.nll is not None)


def test_a_plugin_file_adds_a_column_on_request(runs: list[Run], tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(REGISTERED)
    before = summary_tables(runs)[0].to_markdown()
    assert add_plugin(plugin) == ["worst_document"]
    assert add_plugin(plugin) == ["worst_document"], "a second time it does not run again"
    assert summary_tables(runs)[0].to_markdown() == before, "not shown unless asked for"
    (table,) = summary_tables(runs, metrics=["worst_document"])
    assert "worst document (nats/token)" in table.to_markdown().splitlines()[2]
    for run, row in zip(runs, table.rows, strict=True):
        assert row["worst_document"] == worst_of(run)
    assert [row["worst_document"] for row in summary_rows(runs)] == list(map(worst_of, runs))


def test_a_metric_of_an_installed_package(runs: list[Run], tmp_path: Path) -> None:
    install(tmp_path / "site", "worst_package:WORST")
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])
    done = in_a_process("show", "group", "--json", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["worst_document"] for row in rows] == list(map(worst_of, runs))


@pytest.mark.parametrize(
    ("target", "sentence"),
    [("worst_package:worst", "which is no tta_bench.Metric"), ("gone:WORST", "cannot be imported")],
)
def test_a_broken_entry_point_is_named(
    target: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", target)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(MetricError, match=sentence):
        available()


def test_word_perplexity_on_request(runs: list[Run]) -> None:
    keys = [column.key for column in summary_tables(runs)[0].shown]
    assert "word_perplexity" not in keys
    (table,) = summary_tables(runs, metrics=["word_perplexity"])
    assert "word_perplexity" in [column.key for column in table.shown]
    for run, row in zip(runs, table.rows, strict=True):
        nll = math.fsum(r.nll or 0.0 for r in run.rows)
        words = sum(r.words for r in run.rows)
        assert row["word_perplexity"] == pytest.approx(math.exp(nll / words), rel=1e-12)


def test_word_perplexity_of_unknown_words_is_unknown(tmp_path: Path) -> None:
    extra = make_row(3, words=0, nll=250.0)
    run = store_run(tmp_path, documents=3, extra=(extra,))
    assert summary_rows([run])[0]["word_perplexity"] is None


def test_a_metric_sees_the_baseline_that_was_chosen(runs: list[Run]) -> None:
    seen: list[tuple[str, str | None]] = []

    def value(run: Run, baseline: Run | None) -> None:
        seen.append((run.spec, baseline and baseline.spec))

    register_metric(Metric("spy", value, "spy", shown=False))
    register_metric(Metric("spy_none", value, "spy", shown=False, against="none"))
    summary_tables(runs, "fwl")
    assert seen == [("none", "fwl"), ("none", "none"), ("fwl", "fwl"), ("fwl", "none")]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (lambda run, baseline: 1 / 0, "'broken' fails on .*: ZeroDivisionError"),
        (lambda run, baseline: "good", "'broken' returns str .* must return a number or None"),
    ],
)
def test_a_metric_that_fails_is_named(value: object, sentence: str, runs: list[Run]) -> None:
    register_metric(Metric("broken", value, "broken"))  # type: ignore[arg-type]
    with pytest.raises(MetricError, match=sentence):
        summary_rows(runs)


def test_what_is_not_finite_is_not_known(runs: list[Run]) -> None:
    register_metric(Metric("endless", lambda run, baseline: math.inf, "endless"))
    assert [row["endless"] for row in summary_rows(runs)] == [None, None]


def test_names_that_cannot_be(runs: list[Run]) -> None:
    with pytest.raises(MetricError, match="cannot be a metric's name"):
        Metric("Word PPL", lambda run, baseline: None, "x")
    register_metric(Metric("perplexity", lambda run, baseline: None, "x"))
    with pytest.raises(MetricError, match="has the name of another"):
        available()
    registry._registered.clear()
    register_metric(Metric("tokens", lambda run, baseline: None, "x"))
    with pytest.raises(MetricError, match="field of every row"):
        summary_rows(runs)


def test_an_unknown_name_names_the_closest() -> None:
    with pytest.raises(UsageError, match="did you mean 'word_perplexity'"):
        named(["word_perplexty"])


def test_plugins_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no plugin file"):
        add_plugin(tmp_path / "gone.py")
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(MetricError, match="registers no metric"):
        add_plugin(empty)
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(MetricError, match="cannot be imported: ZeroDivisionError"):
        add_plugin(broken)
