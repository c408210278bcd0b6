"""Metrics: the built-in ones, those of third parties, and how a table and a command show them."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from stored_runs import make_row, store_run
from typer.testing import CliRunner

import tta_bench
from tta_bench.cli.main import app
from tta_bench.errors import BenchError, MetricError, UsageError
from tta_bench.metrics import Metric, add_plugin, available, named, register_metric, registry
from tta_bench.metrics.registry import BUILT_IN
from tta_bench.store import Run
from tta_bench.tables import summary_rows, summary_tables
from tta_bench.tables.slices import slice_tables

PLUGIN = """
from tta_bench import Metric, register_metric


def worst(run, baseline):
    means = [row.nll / row.tokens for row in run.rows if row.status == "done"]
    return max(means, default=None)


register_metric(
    Metric("worst_document", worst, "worst document", summary="Most nats.", better="lower")
)
"""


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_plugins", {})
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()
    for name in [name for name in sys.modules if name.startswith("tta_bench_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    gone = {
        "model": {"name": "builtin:tiny", "sha256": "ab12", "random_weights": False},
        "dataset": {"spec": "no-such-folder", "fingerprint": "f00d", "documents": 4},
    }  # so that a page need not look for the documents
    return [
        store_run(tmp_path / "mine", **gone),
        store_run(tmp_path / "mine", "fwl", 0.1, summary={"flops_per_token": 5.4e8}, **gone),
    ]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "my_metrics.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return file


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed and names the plugin's metric as an entry point."""
    site = tmp_path / "site"
    info = site / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tta_bench.metrics]\nworst = third_metrics:WORST\n")
    text = PLUGIN.replace("register_metric(\n", "WORST = (\n")
    (site / "third_metrics.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "third_metrics", raising=False)


def output(*words: str | Path) -> str:
    """What a command prints; its BenchError is raised."""
    result = CliRunner().invoke(app, list(map(str, words)))
    if isinstance(result.exception, BenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def worst(run: Run) -> float:
    return max(row.nll / row.tokens for row in run.rows if row.nll is not None)


def folder(runs: list[Run]) -> Path:
    return runs[0].path.parent


def heading(markdown: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith("|"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# Built-in metrics


def test_word_perplexity_is_shown_on_request_alone(runs: list[Run]) -> None:
    words = sum(row.words for row in runs[0].rows)
    expected = math.exp(math.fsum(row.nll or 0 for row in runs[0].rows) / words)
    plain = output("show", folder(runs), "--format", "markdown")
    asked = output("show", folder(runs), "--format", "markdown", "--metric", "word_perplexity")
    assert "word perplexity" not in heading(plain)
    assert heading(asked) == [*heading(plain)[:3], "word perplexity", *heading(plain)[3:]]
    assert f"| {expected:,.0f} |" in asked
    (row, _) = json.loads(output("show", folder(runs), "--json"))["rows"]
    assert row["word_perplexity"] == pytest.approx(expected)


def test_several_metrics_on_request(runs: list[Run]) -> None:
    words = ["--metric", "macro_perplexity", "--metric", "offline_flops"]
    heads = heading(output("compare", folder(runs), "--format", "markdown", *words))
    assert {"macro perplexity", "offline FLOPs"} < set(heads)


def test_every_built_in_metric_is_in_every_row_and_can_be_shown(runs: list[Run]) -> None:
    names = [metric.name for metric in BUILT_IN]
    assert len(set(names)) == len(names)
    assert all(metric.summary for metric in BUILT_IN)
    (table,) = summary_tables(runs, metrics=names)
    shown = [column.key for column in table.shown]
    assert shown == ["method", *names]
    for row in table.rows:
        assert set(names) <= set(row)
        assert all(column.cell(row) for column in table.shown)


def test_a_frozen_models_flops_are_the_measure_whatever_the_baseline(runs: list[Run]) -> None:
    (table,) = summary_tables(runs, baseline="fwl")
    assert [row["flops_x_none"] for row in table.rows] == [1.0, 2.0]


def test_a_slice_has_no_costs(runs: list[Run]) -> None:
    (table,) = slice_tables(runs, "document", metrics=["flops_per_token", "perplexity"])
    first = table.rows[0]
    assert first["flops_per_token"] is None
    assert first["perplexity"] == pytest.approx(math.exp(first["nll_per_token"]))
    cells = {column.key: column.cell(first) for column in table.shown}
    assert cells["flops_per_token"] == "—"


def test_an_unknown_metric_is_refused_with_the_closest(runs: list[Run]) -> None:
    with pytest.raises(UsageError, match="did you mean 'word_perplexity'"):
        output("show", folder(runs), "--metric", "word_perplexty")
    with pytest.raises(UsageError, match="there is no metric"):
        named(["beauty"])


# Metrics of third parties


def test_a_plugins_metric_is_a_column(runs: list[Run], plugin: Path) -> None:
    text = output("show", folder(runs), "--format", "markdown", "--plugin", plugin)
    assert heading(text)[-1] == "worst document"
    assert f"| **{worst(runs[1]):.4g}** |" in text  # the lower of the two
    assert f"| {worst(runs[0]):.4g} |" in text
    rows = json.loads(output("show", folder(runs), "--json", "--plugin", plugin))["rows"]
    assert [row["worst_document"] for row in rows] == [worst(run) for run in runs]


def test_an_installed_packages_metric_is_a_column(runs: list[Run], installed: None) -> None:
    text = output("show", folder(runs), "--format", "markdown")
    assert heading(text)[-1] == "worst document"
    rows = json.loads(output("show", folder(runs), "--json"))["rows"]
    assert [row["worst_document"] for row in rows] == [worst(run) for run in runs]
    assert "worst_document" in output("list", "metrics")


def test_compare_report_and_exports_have_it_too(
    runs: list[Run], plugin: Path, tmp_path: Path
) -> None:
    mine = ("--plugin", plugin)
    assert heading(output("compare", folder(runs), "--format", "markdown", *mine))[-1] == (
        "worst document"
    )
    (table,) = json.loads(
        output("compare", folder(runs), "--format", "json", "--sort", "worst_document", *mine)
    )["tables"]
    assert [row["method"] for row in table["rows"]] == ["fwl", "none"]
    by_document = output("compare", folder(runs), "--by", "document", "--format", "csv", *mine)
    for line in csv.DictReader(io.StringIO(by_document)):
        assert line["worst_document"] == line["nll_per_token"]
    file = tmp_path / "rows.parquet"
    output("export", folder(runs), "--format", "parquet", "-o", file, *mine)
    frame = pd.read_parquet(file).groupby("method_spec")["run_worst_document"].unique()
    assert {name: list(value) for name, value in frame.items()} == {
        run.spec: [worst(run)] for run in runs
    }
    page = tmp_path / "page.html"
    output("report", folder(runs), "-o", page, *mine)
    assert "worst document" in page.read_text(encoding="utf-8")


def test_a_plugins_metric_is_listed_with_what_it_says(plugin: Path) -> None:
    rows = json.loads(output("list", "metrics", "--plugin", plugin, "--json"))["metrics"]
    assert rows[-1] == {"name": "worst_document", "better": "lower", "summary": "Most nats."}


def test_a_metric_sees_the_baseline(runs: list[Run]) -> None:
    seen = []

    def value(run: Run, baseline: Run | None) -> None:
        seen.append((run.spec, None if baseline is None else baseline.spec))

    register_metric(Metric("watch", value, "watch"))
    summary_tables(runs)
    summary_tables(runs[1:])
    assert seen == [("none", "none"), ("fwl", "none"), ("fwl", None)]


def test_the_public_names_are_these() -> None:
    assert tta_bench.Metric is Metric
    assert tta_bench.register_metric is register_metric


# Contracts that are broken


def of(value: Any) -> Metric:
    return Metric("mine", lambda run, baseline: value, "mine")


def test_what_is_not_finite_is_not_known(runs: list[Run]) -> None:
    assert of(math.inf).of(runs[0], None) is None
    assert of(None).of(runs[0], None) is None
    assert of(3).of(runs[0], None) == 3


def test_what_is_no_number_is_refused(runs: list[Run]) -> None:
    with pytest.raises(MetricError, match=r"returns str .* must return a number or None"):
        of("many").of(runs[0], None)


def test_a_metric_that_fails_is_named(runs: list[Run]) -> None:
    register_metric(Metric("mine", lambda run, baseline: 1 / 0, "mine"))
    with pytest.raises(MetricError, match=r"the metric 'mine' fails on .*: ZeroDivisionError"):
        output("show", folder(runs))


def _register_and_list(name: str) -> None:
    register_metric(Metric(name, lambda run, baseline: 2, "other"))
    available()


@pytest.mark.parametrize("name", ["perplexity", "mine"])
def test_a_name_is_given_once(name: str) -> None:
    register_metric(Metric("mine", lambda run, baseline: 1, "mine"))
    with pytest.raises(MetricError, match=rf"'{name}' .*has the name of another"):
        _register_and_list(name)


def test_a_name_of_a_field_is_refused(runs: list[Run]) -> None:
    register_metric(Metric("tokens", lambda run, baseline: 1, "mine"))
    with pytest.raises(MetricError, match="'tokens' has the name of a field"):
        summary_rows(runs)


@pytest.mark.parametrize("name", ["", "Two Words", "x=1", "1st"])
def test_a_name_is_a_plain_word(name: str) -> None:
    with pytest.raises(MetricError, match="cannot be a metric's name"):
        Metric(name, lambda run, baseline: 1, "mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = 1", "registers no metric"), ("import nothing_there", "ModuleNotFoundError")],
)
def test_plugins_that_do_not_work(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(MetricError, match=words):
        add_plugin(file)
    with pytest.raises(UsageError, match="there is no plugin file"):
        add_plugin(tmp_path / "missing.py")


def test_a_plugin_runs_once(plugin: Path) -> None:
    assert add_plugin(plugin) == add_plugin(plugin) == ["worst_document"]
    assert list(available())[-1] == "worst_document"


def test_a_failed_run_has_no_numbers_of_any_metric(tmp_path: Path) -> None:
    oom = make_row(3, "oom", reason="out of memory")
    failed = {"status": "oom", "reason": "out of memory"}
    run = store_run(tmp_path, "fwl", 0.1, 3, (oom,), failed)
    register_metric(Metric("mine", lambda run, baseline: 1, "mine"))
    (table,) = summary_tables([run], metrics=["word_perplexity"])
    cells = [column.cell(table.rows[0]) for column in table.shown]
    assert cells[1:] == ["oom", *["—"] * (len(cells) - 2)]
