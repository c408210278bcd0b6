"""Portions of runs are put together, or refused with a sentence that says which and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import COSTS, make_losses, make_manifest, make_row, store_run

from tta_bench.cli.merge import merge as command
from tta_bench.errors import BenchError, UsageError
from tta_bench.store import Run, RunWriter, load_group, load_run
from tta_bench.store.merge import merge
from tta_bench.tables.notes import partial_reasons

SIZES = [2, 1, 0, 1]
OWN = [(0, 3), (2,), (), (1,)]
"""Documents of each portion; the third has none, as where there are fewer shards."""


def summary_of(number: int) -> dict[str, Any]:
    audit = {
        "valid": True,
        "seconds": 1.0,
        "share": 0.1,
        "findings": [
            {"check": "future", "status": "pass", "value": 0.0, "sentence": f"seen by {number}"}
        ],
    }
    return {
        "status": "complete",
        "reason": None,
        **COSTS,
        "flops_per_token": 1e6 * number,
        "seconds": 2.0,
        "timed_tokens": 200,
        "peak_process_bytes": number * 2**20,
        "warm_up_seconds": 0.1 * number,
        "notes": ["a note"],
        "audit": audit,
        "rules_broken": [],
        "valid_reason": None,
        "probed": [],
        "workers": [{"worker": 0, "device": "cpu", "threads": 1, "documents": 1, "tokens": 9}],
    }


def store(
    results: Path,
    number: int,
    *,
    spec: str = "none",
    documents: tuple[int, ...] | None = None,
    cut: str = "abcd",
    failed: tuple[int, ...] = (),
    summary: dict[str, Any] | None = None,
    **manifest: Any,
) -> Run:
    """A stored portion of a run of four documents."""
    stamp = {"number": number, "documents": SIZES, "cut": cut}
    whole = make_manifest(spec, **manifest) | {
        "shard": stamp,
        "workers": {"number": 2, "threads": 1},
    }
    with RunWriter.resume(results / f"it-{number}-of-4", whole) as writer:
        for index in OWN[number - 1] if documents is None else documents:
            if index in failed:
                writer.append(make_row(index, "error", reason="it broke"))
            else:
                writer.append(make_row(index), make_losses(index))
        writer.finish(summary_of(number) | (summary or {}))
    return load_run(writer.path)


def portions(results: Path, **options: Any) -> list[Run]:
    return [store(results, number, **options) for number in (4, 1, 2)]


def test_rows_losses_and_costs_of_all_portions_are_in_the_whole(tmp_path: Path) -> None:
    parts = portions(tmp_path)
    single = store_run(tmp_path / "single", documents=4)
    path = merge(parts, tmp_path / "it")
    whole = load_run(path)
    assert path.name == single.path.name
    assert [row.index for row in whole.rows] == [0, 1, 2, 3]
    assert [row.session for row in whole.rows] == [0, 2, 1, 0]
    for mine, its in zip(whole.rows, single.rows, strict=True):
        assert mine.to_dict() | {"session": 0} == its.to_dict()
        np.testing.assert_array_equal(whole.nll(mine), single.nll(its))
        assert (path / str(mine.nll_file)).read_bytes() == (
            single.path / str(its.nll_file)
        ).read_bytes()
    summary = whole.summary
    assert (summary["seconds"], summary["timed_tokens"], summary["sessions"]) == (6.0, 600, 3)
    assert summary["tokens_per_second"] == 100
    assert (summary["peak_process_bytes"], summary["warm_up_seconds"]) == (4 * 2**20, 0.4)
    tokens = {number: sum(100 + 10 * i for i in OWN[number - 1]) for number in (1, 2, 4)}
    mean = sum(1e6 * n * count for n, count in tokens.items()) / sum(tokens.values())
    assert summary["flops_per_token"] == pytest.approx(mean, rel=1e-12)
    assert [share["shard"] for share in summary["workers"]] == [1, 2, 4]
    assert summary["valid"] is True
    assert summary["audit"]["findings"][0]["sentence"] == "shard 1/4: seen by 1"
    assert summary["notes"] == ["a note"]
    assert "shard" not in whole.manifest
    assert whole.manifest["merged"] == {"shards": 3}
    assert whole.manifest["workers"] == {"number": 6, "threads": 1}
    assert partial_reasons(whole) == []
    assert partial_reasons(parts[0]) == ["--shard 4/4"]


def test_a_merge_that_is_there_is_left_alone(tmp_path: Path) -> None:
    parts = portions(tmp_path)
    path = merge(parts, tmp_path / "it")
    before = (path / "summary.json").read_bytes()
    assert merge(parts, tmp_path / "it") == path
    assert (path / "summary.json").read_bytes() == before
    (path / "summary.json").unlink()
    with pytest.raises(UsageError, match="is not finished; give another --name"):
        merge(parts, tmp_path / "it")


def test_no_half_of_a_run_is_left_where_losses_are_damaged(tmp_path: Path) -> None:
    parts = portions(tmp_path)
    (parts[2].path / "nll" / "00002.npz").write_bytes(b"other")
    with pytest.raises(BenchError, match=r"00002.npz is damaged; run .* shard 2/4 of none again"):
        merge(parts, tmp_path / "it")
    assert not list((tmp_path / "it").iterdir())


def test_sessions_of_a_portion_that_was_taken_up_stay_apart(tmp_path: Path) -> None:
    store(tmp_path, 1, documents=(0,), summary={"status": "interrupted", "seconds": 5.0})
    taken_up = store(tmp_path, 1, documents=(3,))
    whole = load_run(merge([taken_up, *portions_but(tmp_path, 1)], tmp_path / "it"))
    assert [row.session for row in whole.rows] == [0, 3, 2, 1]
    assert whole.summary["seconds"] == 11.0
    assert whole.status == "complete"


def portions_but(results: Path, number: int) -> list[Run]:
    return [store(results, one) for one in (1, 2, 4) if one != number]


@pytest.mark.parametrize(("valid", "whole"), [(False, False), (None, None)])
def test_one_portion_that_is_not_valid_is_enough(
    tmp_path: Path, valid: bool | None, whole: bool | None
) -> None:
    finding = {"check": "future", "status": "skip" if valid is None else "fail", "value": None}
    audit = {"valid": valid, "seconds": 1.0, "share": 0.1}
    bad = store(
        tmp_path,
        2,
        summary={
            "valid": valid,
            "valid_reason": "future: it saw it",
            "rules_broken": [] if valid is None else ["future"],
            "audit": audit | {"findings": [finding | {"sentence": "it saw it"}]},
        },
    )
    run = load_run(merge([bad, *portions_but(tmp_path, 2)], tmp_path / "it"))
    assert run.summary["valid"] is whole
    assert run.summary["valid_reason"] == "shard 2/4: future: it saw it"
    assert run.summary["audit"]["findings"][0]["sentence"] == "shard 2/4: it saw it"
    assert run.summary["audit"]["valid"] is valid


def test_a_document_that_failed_is_a_failed_row_of_the_whole(tmp_path: Path) -> None:
    bad = store(tmp_path, 2, failed=(2,), summary={"status": "error", "reason": "it broke"})
    run = load_run(merge([bad, *portions_but(tmp_path, 2)], tmp_path / "it"))
    assert (run.status, run.summary["reason"]) == ("error", "it broke")
    assert [row.status for row in run.rows] == ["done", "done", "error", "done"]


def test_unlike_software_is_told(tmp_path: Path) -> None:
    odd = store(tmp_path, 2)
    path = odd.path / "manifest.json"
    from tta_bench.store.files import sealed, to_json

    manifest = {k: v for k, v in json.loads(path.read_text()).items() if k != "crc32"}
    manifest["software"]["packages"]["torch"] = "0.1"
    path.write_bytes(to_json(sealed(manifest), indent=2))
    parts = [load_run(odd.path), *portions_but(tmp_path, 2)]
    (note,) = load_run(merge(parts, tmp_path / "it")).summary["notes"][1:]
    assert "unlike versions" in note


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ({"source_sha256": "ffff"}, "made with another source of the method; run it again"),
        ({"params": {"of": "other"}}, "made with another method;"),
    ],
)
def test_portions_of_other_methods_are_refused(
    tmp_path: Path, method: dict[str, Any], sentence: str
) -> None:
    own = make_manifest()["method"] | method
    parts = [store(tmp_path, 2, method=own), *portions_but(tmp_path, 2)]
    with pytest.raises(UsageError, match=rf"shard 2/4 of none .*{sentence}"):
        merge(parts, tmp_path / "it")


def test_other_texts_and_seeds_are_named(tmp_path: Path) -> None:
    data = {"spec": "builtin:stdlib", "fingerprint": "beef", "documents": 4}
    odd = store(tmp_path, 2, dataset=data, seeds={"torch": 1})
    with pytest.raises(UsageError, match="made with another dataset, another seed; run it again"):
        merge([odd, *portions_but(tmp_path, 2)], tmp_path / "it")


def test_missing_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none lacks 2 shards of 4: 1/4, 4/4; run eval"):
        merge([store(tmp_path, 2)], tmp_path / "it")


def test_a_shard_that_is_not_finished_is_named(tmp_path: Path) -> None:
    early = store(tmp_path, 1, documents=(0,), summary={"status": "interrupted"})
    with pytest.raises(UsageError, match=r"shard 1/4 of none .* has 1 of 2 documents \(interrup"):
        merge([early, *portions_but(tmp_path, 1)], tmp_path / "it")


def test_a_shard_that_was_interrupted_in_its_audit_is_not_finished(tmp_path: Path) -> None:
    early = store(tmp_path, 1, summary={"status": "interrupted", "reason": "by the user"})
    with pytest.raises(UsageError, match=r"has 2 of 2 documents \(by the user\); run its command"):
        merge([early, *portions_but(tmp_path, 1)], tmp_path / "it")


@pytest.mark.parametrize("stamp", [[], {"number": 5}, {"number": 5, "documents": [1], "cut": "a"}])
def test_a_stamp_that_is_none_is_damage(tmp_path: Path, stamp: Any) -> None:
    with RunWriter.create(tmp_path, make_manifest() | {"shard": stamp}):
        pass
    with pytest.raises(BenchError, match="does not say which shard it is"):
        load_group(tmp_path)


def test_doubled_rows_are_refused(tmp_path: Path) -> None:
    parts = portions(tmp_path)
    with pytest.raises(UsageError, match="shard 4/4 of none is there twice"):
        merge([*parts, store(tmp_path / "copy", 4)], tmp_path / "it")
    doubled = store(tmp_path / "other", 4, documents=(2,))
    with pytest.raises(UsageError, match=r"both have a row for the document doc2\.py"):
        merge([doubled, *parts[1:]], tmp_path / "it")


def test_another_cut_and_whole_runs_are_refused(tmp_path: Path) -> None:
    odd = store(tmp_path, 2, cut="ffff")
    with pytest.raises(UsageError, match=r"shard 2/4 of none .* was not cut like shard 1/4"):
        merge([odd, *portions_but(tmp_path, 2)], tmp_path / "it")
    with pytest.raises(UsageError, match="is a whole run and no shard"):
        merge([store_run(tmp_path / "single")], tmp_path / "it")


def test_a_shard_is_not_taken_up_by_another_cut(tmp_path: Path) -> None:
    store(tmp_path, 1)
    with pytest.raises(UsageError, match="holds a shard that was cut in another way"):
        store(tmp_path, 1, cut="ffff")


def test_the_command_finds_all_shards_by_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    portions(tmp_path)
    portions(tmp_path, spec="window:context=8")
    command(["it"], None, tmp_path)
    assert {run.spec for run in load_group(tmp_path / "it")} == {"none", "window:context=8"}
    assert "none: 3 shards in" in capsys.readouterr().out
    folders = [str(tmp_path / f"it-{number}-of-4") for number in (1, 2, 4)]
    command(folders, "named", tmp_path)
    assert len(load_group(tmp_path / "named")) == 2
    with pytest.raises(UsageError, match="lacks 1 shard of 4: 4/4"):
        command(folders[:2], "other", tmp_path)
    with pytest.raises(UsageError, match="there is no run or group"):
        command(["nothing"], None, tmp_path)
