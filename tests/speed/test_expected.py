"""A plan says how long a job takes where `speed` has measured that method, model and device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.model.identity import describe_model
from tta_bench.model.shape import load_shape
from tta_bench.speed.expected import StoredSpeeds
from tta_bench.speed.store import SCHEMA_VERSION, write_speed
from tta_bench.store.environment import describe_platform

RATES = {64: 100.0, 2048: 900.0}


@pytest.fixture
def measured(tmp_path: Path) -> dict[str, Any]:
    """Rows of `none` at two lengths of chunk, stored; the manifest that they are of."""
    manifest = {
        "model": describe_model(load_shape("builtin:tiny")),
        "dtype": "float32",
        "device": {"type": "cpu"},
        "platform": describe_platform(),
    }
    for chunk, rate in RATES.items():
        row = {"method": "none", "chunk": chunk, "lanes": 1, "tokens_per_second": rate}
        row |= {"peak_process_bytes": 2**31, "status": "complete"}
        folder = tmp_path / "results" / f"speed-{chunk}"
        folder.mkdir(parents=True)
        whole = {"schema_version": SCHEMA_VERSION, "manifest": manifest, "rows": [row]}
        write_speed(folder, whole)
    return manifest | {"method": {"spec": "none"}}


def test_the_row_with_the_nearest_chunk_counts(tmp_path: Path, measured: dict[str, Any]) -> None:
    speeds = StoredSpeeds(tmp_path / "results")
    found = [speeds.of(measured, chunk) for chunk in (32, 100, 1024)]
    assert [one and one.tokens_per_second for one in found] == [100.0, 100.0, 900.0]


@pytest.mark.parametrize(
    "other",
    [
        {"dtype": "bfloat16"},
        {"method": {"spec": "fwl"}},
        {"device": {"type": "cuda", "name": "NVIDIA H200"}},
        {"platform": {"cpu": "another", "cores": 2}},
    ],
)
def test_what_was_not_measured_is_not_guessed(
    tmp_path: Path, measured: dict[str, Any], other: dict[str, Any]
) -> None:
    assert StoredSpeeds(tmp_path / "results").of(measured | other, 64) is None


def test_a_plan_tells_time_and_memory(
    tmp_path: Path, measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "a.txt").write_text("The quick brown fox jumps over the lazy dog. " * 90)
    words = ["plan", "--dataset", "a.txt", "--chunk", "64", "--device", "cpu", "--name", "mine"]
    words += ["--method", "none", "--method", "neural-cache"]
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    none, cache = json.loads(done.output.splitlines()[-1])["jobs"]
    assert none["seconds"] == pytest.approx(none["tokens"] / RATES[64])
    assert none["memory_bytes"] == 2**31
    assert none["shards"] == 1
    assert (cache["seconds"], cache["memory_bytes"]) == (None, None)
    shown = CliRunner().invoke(app, words, catch_exceptions=False).output
    assert "on one device, by rows of speed, dashes apart" in shown
