"""Runs that are never reset, with a probe and beside fresh readings of the same documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slow import slow

from tta_bench.engine.protocol import PROBE_TOKENS
from tta_bench.errors import UsageError
from tta_bench.evaluation.execute import run_suite
from tta_bench.evaluation.plan import plan, setting_specs
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.recorded import recorded_suite
from tta_bench.evaluation.rerun import job_of
from tta_bench.evaluation.setting import open_setting
from tta_bench.evaluation.suite import Suite, load_suite
from tta_bench.evaluation.workers.asked import AskedWorkers
from tta_bench.model.shape import load_shape
from tta_bench.statistics.drift import drift_of
from tta_bench.store import Run, load_run
from tta_bench.store.fresh import fresh_pair

NEVER = {"chunk": 32, "reset": "never"}
METHODS = ["none", "neural-cache"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for name, word in (("a", "fox"), ("b", "whale")):
        (folder / name).mkdir()
        for number in range(2):
            text = f"Number {number} of {word}. " + f"The {word} number {number} is here. " * 8
            (folder / name / f"{number}.txt").write_text(text)
    (folder / "probe.txt").write_text("A probe is about a fox, and not about a whale. " * 6)
    return folder


def suite_of(texts: Path, **changes: Any) -> Suite:
    values = {
        "datasets": [f"sequence:{texts}/a|{texts}/b|{texts}/a"],
        "methods": METHODS,
        "protocol": NEVER,
        "probe": f"{texts}/probe.txt",
        "fresh": True,
        "device": "cpu",
        "audit": "off",
    }
    return Suite(**values | changes)


def read(suite: Suite, results: Path, **changes: Any) -> dict[tuple[str, str], Run]:
    """The runs of a suite by method and reset."""
    with Progress(quiet=True) as progress:
        paths = list(run_suite(suite, progress, name="drift", results=results, **changes))
    runs = [load_run(path) for path in paths]
    return {(run.spec, run.manifest["protocol"]["reset"]): run for run in runs}


@pytest.fixture(scope="module")
def runs(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    return read(suite_of(texts), tmp_path_factory.mktemp("results"))


@slow
def test_both_readings_are_stored_and_find_each_other(runs: dict[tuple[str, str], Run]) -> None:
    assert set(runs) == {(m, r) for m in METHODS for r in ("never", "document")}
    for method in METHODS:
        never, fresh = runs[method, "never"], runs[method, "document"]
        found = fresh_pair(never)
        assert found is not None
        assert found.path == fresh.path
        assert [row.key for row in never.rows] == [row.key for row in fresh.rows]
        assert "probe" not in fresh.manifest
        np.testing.assert_array_equal(never.nll(never.rows[0]), fresh.nll(fresh.rows[0]))


@slow
def test_what_the_frozen_model_carries_is_nothing(runs: dict[tuple[str, str], Run]) -> None:
    drift = drift_of(runs["none", "never"])
    assert drift is not None
    assert drift.forward is not None
    assert set(drift.forward.sums) == {0.0}
    assert set(drift.returned.sums) == {0.0}
    assert len(drift.returned.rows) == 2
    assert drift.retained is not None
    assert set(drift.retained.gains) == {0.0}


@slow
def test_a_cache_carries_something(runs: dict[tuple[str, str], Run]) -> None:
    drift = drift_of(runs["neural-cache", "never"])
    assert drift is not None
    assert drift.forward is not None
    assert drift.returned.estimate is not None
    assert min(drift.forward.sums) > 0  # the texts share their words
    assert drift.returned.estimate.value > 0
    assert drift.retained is not None
    assert len(set(drift.retained.gains)) > 1


@slow
def test_a_probe_is_counted_apart(runs: dict[tuple[str, str], Run]) -> None:
    run = runs["neural-cache", "never"]
    probe = run.manifest["probe"]
    assert probe["document"] == "probe.txt"
    assert run.summary["probe_tokens"] == probe["tokens"] < PROBE_TOKENS
    assert run.summary["probe_readings"] == 1 + len(run.rows)
    assert run.summary["timed_tokens"] == sum(row.tokens for row in run.rows)
    assert run.summary["probe_seconds"] > 0
    assert run.summary["flops_per_token"] == pytest.approx(
        runs["neural-cache", "document"].summary["flops_per_token"]
    )


@slow
def test_a_manifest_asks_for_the_run_again(runs: dict[tuple[str, str], Run], texts: Path) -> None:
    stored = runs["none", "never"]
    suite = recorded_suite(stored.manifest, "it")
    assert (suite.probe, suite.fresh) == (f"{texts}/probe.txt", False)
    job = job_of(stored)
    assert (job.setting.probe, job.setting.protocol.reset) == (suite.probe, "never")


@slow
def test_a_worker_gives_the_same_rows(
    texts: Path, runs: dict[tuple[str, str], Run], tmp_path: Path
) -> None:
    suite = suite_of(texts, fresh=False, methods=["neural-cache"])
    other = read(suite, tmp_path, workers=AskedWorkers(1))
    here, there = runs["neural-cache", "never"], other["neural-cache", "never"]
    assert [row.probe_nll for row in there.rows] == [row.probe_nll for row in here.rows]
    assert there.summary["probe_fresh_nll"] == here.summary["probe_fresh_nll"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocol": {"chunk": 32}}, "--probe belongs to --reset never"),
        ({"protocol": {"chunk": 32}, "probe": None}, "--fresh belongs to --reset never"),
        ({"isolate": True}, "--isolate keeps out of reach"),
        (
            {"protocol": {"name": "krause", "window": 32, "reset": "never"}, "fresh": False},
            "--probe needs documents that stay apart, and --protocol krause joins them",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_work(
    texts: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        plan(suite_of(texts, **changes))


@pytest.mark.parametrize(
    ("probe", "sentence"),
    [("a/0.txt", "is also one of sequence:"), ("short", "is too short to be read")],
)
def test_a_probe_that_cannot_tell_is_refused(texts: Path, probe: str, sentence: str) -> None:
    (texts / "short").write_text("\n")
    protocol = NEVER | {"prefix": "none"}
    spec = setting_specs(suite_of(texts, probe=f"{texts}/{probe}", protocol=protocol))[0]
    with pytest.raises(UsageError, match=sentence):
        open_setting(spec, load_shape("builtin:tiny", device="cpu"))


def test_the_suite_reads_streams_both_ways() -> None:
    suite = load_suite("drift")
    jobs = plan(suite)
    assert len(jobs) == 2 * len(suite.datasets) * len(suite.methods)
    assert {job.setting.protocol.reset for job in jobs} == {"never", "document"}
    assert {bool(job.setting.probe) for job in jobs} == {True, False}
