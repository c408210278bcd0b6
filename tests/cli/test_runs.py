"""`tta-bench runs`, `rm` and `export`, and `load_results`, on stored runs made without a model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from stored_runs import make_losses, make_manifest, make_row, store_run
from typer.testing import CliRunner

import tta_bench
from tta_bench.cli.main import app
from tta_bench.cli.runs import age, size
from tta_bench.errors import BenchError, UsageError
from tta_bench.store import RunWriter, load_run
from tta_bench.store.frame import COLUMNS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A group of two runs, one of which broke off, and a group of one."""
    folder = tmp_path / "results"
    store_run(folder / "two", extra=(make_row(4, "skipped", reason="too short"),))
    with RunWriter.create(folder / "two", make_manifest("fwl")) as writer:
        writer.append(make_row(0), make_losses(0))
        writer.append(make_row(1, "oom", reason="memory"))
    store_run(folder / "one", "neural-cache")
    return folder


def call(*words: object, **options: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], **options)


def listed(results: Path, *words: str) -> list[dict[str, Any]]:
    done = call("runs", *words, "--json", "--results", results)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["runs"]


def test_runs_says_how_far_each_came(results: Path) -> None:
    entries = {entry["method"]: entry for entry in listed(results)}
    assert set(entries) == {"none", "fwl", "neural-cache"}
    assert entries["none"]["status"] == "complete"
    assert (entries["none"]["done"], entries["none"]["total"]) == (4, 4)
    assert entries["fwl"]["status"] == "unfinished"
    assert (entries["fwl"]["done"], entries["fwl"]["failed"]) == (1, 1)
    for entry in entries.values():
        files = [path for path in Path(entry["path"]).rglob("*") if path.is_file()]
        assert entry["size_bytes"] == sum(path.stat().st_size for path in files)
        assert 0 <= entry["age_seconds"] < 60
    table = call("runs", "--results", results, env={"COLUMNS": "120"}).stdout
    assert "two/fwl" in table
    assert "unfinished, 1 failed" in table
    assert {entry["method"] for entry in listed(results, "one")} == {"neural-cache"}


def test_runs_names_what_is_damaged_and_what_is_being_written(results: Path) -> None:
    (run,) = (results / "one").iterdir()
    (run / "rows.jsonl").write_text("x\n")
    with RunWriter.resume(results / "two", make_manifest("fwl")):
        entries = {Path(entry["path"]).name: entry for entry in listed(results)}
    statuses = {name.rsplit("-", 1)[0]: entry["status"] for name, entry in entries.items()}
    assert statuses == {"none": "complete", "fwl": "writing", "neural-cache": "damaged"}
    assert "line 1" in entries[run.name]["reason"]
    assert "rows.jsonl is damaged" in " ".join(call("runs", "--results", results).stdout.split())


def test_runs_may_list_those_written_last_alone(results: Path) -> None:
    every = listed(results)
    assert listed(results, "--limit", "2") == [
        entry | {"age_seconds": pytest.approx(entry["age_seconds"], abs=9)} for entry in every[1:]
    ]
    text = call("runs", "--results", results, "--limit", "1").stdout
    assert f"1 of 3 runs in {results}" in " ".join(text.split())
    assert "3 runs in" in call("runs", "--results", results, "--limit", "9").stdout


def test_runs_where_there_are_none(tmp_path: Path) -> None:
    done = call("runs", "--results", tmp_path)
    assert done.exit_code == 0
    assert "holds no run yet" in done.stdout


def test_units_of_ages_and_sizes() -> None:
    assert [age(s) for s in (0, 59.9, 60, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]
    assert [size(n) for n in (0, 1023, 1536, 2**20, 3 * 2**30)] == [
        "0 B", "1023 B", "1.5 KiB", "1.0 MiB", "3.0 GiB"
    ]  # fmt: skip


def test_rm_asks_and_leaves_what_is_not_of_a_run(results: Path) -> None:
    (run,) = (results / "one").iterdir()
    (run / "notes.txt").write_text("mine")
    refused = call("rm", "one", "--results", results, input="n\n")
    assert refused.exit_code == 1
    assert load_run(run).status == "complete"
    done = call("rm", "one", "--results", results, input="y\n")
    assert done.exit_code == 0
    assert [path.name for path in run.rglob("*")] == ["notes.txt"]
    done = call("rm", "two", "--yes", "--results", results)
    assert done.exit_code == 0
    assert "Deleted 2 runs" in done.stdout
    assert not (results / "two").exists()


def test_rm_removes_a_damaged_run_and_no_folder_of_groups(results: Path) -> None:
    (run,) = (results / "one").iterdir()
    (run / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match="holds no run"):
        call("rm", results, "--yes", catch_exceptions=False)
    assert len(listed(results)) == 3
    assert call("rm", run, "--yes").exit_code == 0
    assert not run.exists()


def test_rm_refuses_a_run_that_is_being_written(results: Path) -> None:
    (run,) = (results / "one").iterdir()
    with RunWriter.resume(results / "one", make_manifest("neural-cache"), "failed"):
        with pytest.raises(UsageError, match=r"is being written by another process \(pid \d+\)"):
            call("rm", run, "--yes", catch_exceptions=False)
        assert (run / "manifest.json").exists()


def test_load_results_has_a_row_a_document(results: Path) -> None:
    frame = tta_bench.load_results(results)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 5 + 2 + 4
    assert set(frame["group"]) == {"one", "two"}
    none = frame[frame["method"] == "none"]
    assert list(none["status"]) == ["done"] * 4 + ["skipped"]
    assert none["nll_nats"].isna().sum() == 1  # not zero
    expected = sum(make_losses(i).astype(float).sum() for i in range(4))
    assert math.isclose(none["nll_nats"].sum(), expected)
    assert frame["run_peak_allocated_bytes"].isna().all()
    (run,) = (results / "one").iterdir()
    assert len(tta_bench.load_results(run)) == len(tta_bench.load_results(run.parent)) == 4
    with pytest.raises(UsageError, match="holds no run"):
        tta_bench.load_results(results / "nothing")


def test_load_results_names_what_is_damaged(results: Path) -> None:
    (run,) = (results / "one").iterdir()
    (run / "rows.jsonl").write_text("x\n")
    with pytest.raises(BenchError, match=r"rows\.jsonl is damaged in line 1"):
        tta_bench.load_results(results)


def test_rm_deletes_nothing_behind_a_link(results: Path, tmp_path: Path) -> None:
    (run,) = (results / "one").iterdir()
    kept = tmp_path / "kept"
    (run / "nll").rename(kept)
    (run / "nll").symlink_to(kept)
    assert call("rm", run, "--yes").exit_code == 0
    assert not run.exists()
    assert len(list(kept.glob("*.npz"))) == 4
    (other, *_) = (results / "two").iterdir()
    (results / "link").symlink_to(other)
    with pytest.raises(UsageError, match="is a link"):
        call("rm", results / "link", "--yes", catch_exceptions=False)
    assert (other / "manifest.json").exists()


def test_a_table_of_documents_says_whether_their_run_is_valid(tmp_path: Path) -> None:
    why = {"valid": False, "rules_broken": ["future"], "valid_reason": "future: it peeks"}
    store_run(tmp_path / "g")
    store_run(tmp_path / "g", "cheat", summary=why)
    frame = tta_bench.load_results(tmp_path).set_index("method")
    assert set(frame.loc["cheat", "run_valid"]) == {0}
    assert set(frame.loc["cheat", "run_valid_reason"]) == {"future: it peeks"}
    assert set(frame.loc["none", "run_valid"]) == {1}
    assert frame.loc["none", "run_valid_reason"].isna().all()


@pytest.mark.parametrize("format", ["parquet", "csv", "json"])
def test_export_loses_nothing(results: Path, format: str) -> None:
    import pandas as pd

    frame = tta_bench.load_results(results / "two")
    file = results.parent / f"rows.{format}"
    done = call("export", "two", "--format", format, "-o", file, "--results", results)
    assert done.exit_code == 0, done.output
    if format == "parquet":
        back = pd.read_parquet(file)
    elif format == "csv":
        back = pd.read_csv(file, dtype=str)
    else:
        back = pd.DataFrame(json.loads(file.read_text()))
    pd.testing.assert_frame_equal(back.astype(COLUMNS), frame, check_exact=True)
    if format != "parquet":
        printed = call("export", "two", "--format", format, "--results", results)
        assert printed.stdout == file.read_text()
    else:
        with pytest.raises(UsageError, match="--output"):
            call("export", "two", "--format", format, "--results", results, catch_exceptions=False)


def test_the_columns_are_documented() -> None:
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert [name for name in COLUMNS if f"`{name}`" not in text] == []


def test_published_runs_of_schema_1_can_be_read() -> None:
    manifests = list(ROOT.glob("results/*/*/manifest.json"))
    runs = [load_run(path.parent) for path in manifests]
    assert 1 in {run.manifest["schema_version"] for run in runs}
    assert all(run.rows for run in runs)
    assert len(tta_bench.load_results(ROOT / "results/quickstart")) == 36


# The schema of the manifest


def problems(value: Any, schema: dict[str, Any], where: str = "manifest") -> list[str]:
    """The part of JSON Schema that the manifest's uses: type, required, properties, enum, items."""
    types = schema.get("type", [])
    kinds = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
        "boolean": bool, "null": type(None),
    }  # fmt: skip
    wanted = [types] if isinstance(types, str) else types
    if wanted and not any(isinstance(value, kinds[kind]) for kind in wanted):
        return [f"{where} is no {types}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where} is not one of {schema['enum']}"]
    found = []
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [
            f"{where} lacks {name}" for name in schema.get("required", []) if name not in value
        ]
        if schema.get("additionalProperties") is False:
            found += [f"{where} has {name}" for name in value if name not in properties]
        for name, item in value.items():
            found += problems(item, properties.get(name, {}), f"{where}.{name}")
    if isinstance(value, list):
        for item in value:
            found += problems(item, schema.get("items", {}), f"{where}[]")
    return found


def test_manifests_fit_their_schema(tmp_path: Path) -> None:
    from importlib.resources import files

    schema = json.loads((files("tta_bench") / "data/manifest.schema.json").read_text())
    paths = [*ROOT.glob("results/*/*/manifest.json"), store_run(tmp_path).path / "manifest.json"]
    for path in paths:
        manifest = json.loads(path.read_text())
        assert problems(manifest, schema) == [], path
        for name in schema["required"]:
            lacking = {key: value for key, value in manifest.items() if key != name}
            assert problems(lacking, schema) == [f"manifest lacks {name}"]
    assert problems(manifest | {"lanes": "four", "more": 1}, schema)
