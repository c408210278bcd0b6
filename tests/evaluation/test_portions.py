"""Portions of a run, each read by a command of its own, are together what one command reads."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import workers
from slow import slow

from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError
from tta_bench.evaluation.execute import run_suite
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.shards import dealt, own_documents, shards, shards_left, stamp
from tta_bench.evaluation.suite import Suite
from tta_bench.evaluation.workers.asked import AskedWorkers
from tta_bench.model.loading import Loading
from tta_bench.store import Portion, load_group, load_run
from tta_bench.store.merge import merge


class Lengths:
    """Documents of which only the lengths are known."""

    def __init__(self, lengths: list[int]):
        self.lengths = np.array(lengths)

    def __len__(self) -> int:
        return len(self.lengths)


def setting(lengths: list[int], portion: str, lanes: str = "1", **protocol: Any) -> Any:
    """What is asked of a setting to cut and deal it."""
    spec = SimpleNamespace(
        lanes=lanes,
        protocol=Protocol(**protocol),
        device="cpu",
        isolate=False,
        portion=Portion.parse(portion),
        loading=Loading(),
    )
    return SimpleNamespace(spec=spec, documents=Lengths(lengths), protocol=spec.protocol)


@pytest.mark.parametrize("lanes", ["1", "3"])
@pytest.mark.parametrize("of", [1, 4, 7])
def test_each_document_is_in_one_portion_and_none_is_much_longer(lanes: str, of: int) -> None:
    lengths = [(37 * i) % 700 + 1 for i in range(200)]
    each = [setting(lengths, f"{number}/{of}", lanes) for number in range(1, of + 1)]
    found = [own_documents(one) for one in each]
    assert Counter(index for own in found for index in own) == Counter(range(200))
    largest = max(sum(lengths[i] for i in shard) for shard in shards(each[0]))
    tokens = [sum(lengths[i] for i in own) for own in found]
    assert max(tokens) - min(tokens) <= largest
    for one, own in zip(each, found, strict=True):
        left = shards_left(one, set())
        assert sorted(index for shard in left for index in shard) == own
        assert set(left) <= set(shards(one))
        assert stamp(one) == stamp(each[0]) | {"number": one.spec.portion.number}
        assert stamp(one)["documents"] == [len(own) for own in found]


def test_what_is_stored_is_taken_out_of_a_portion() -> None:
    one = setting([600, 700, 800, 900], "1/2")
    assert shards_left(one, set()) == [(3,), (0,)]
    assert shards_left(one, {3}) == [(0,)]


def test_more_portions_than_shards_leave_some_without() -> None:
    one = setting([600, 700], "3/3")
    assert (own_documents(one), len(dealt(one, 3))) == ([], 3)
    assert own_documents(setting([9] * 5, "1/4", reset="never")) == [0, 1, 2, 3, 4]


def test_another_cut_has_another_stamp() -> None:
    lengths = [(37 * i) % 700 + 1 for i in range(60)]
    assert stamp(setting(lengths, "1/2"))["cut"] != stamp(setting(lengths, "1/2", "3"))["cut"]


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1.5/4"])
def test_what_is_no_portion_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard is K/N"):
        Portion.parse(text)


def evaluated(home: Path, results: str, portion: str | None) -> list[Path]:
    """The folders of the runs of one command, by one worker."""
    suite = Suite(
        datasets=[str(home / "texts")],
        protocol={"chunk": 64},
        device="cpu",
        audit="off",
    )
    with Progress(quiet=True) as progress:
        found = run_suite(
            suite,
            progress,
            name="it",
            results=home / results,
            workers=AskedWorkers(1),
            portion=None if portion is None else Portion.parse(portion),
        )
        return list(found)


@slow
def test_merged_portions_are_byte_for_byte_what_one_command_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    workers.write_texts(tmp_path, 4, sentences=10)
    evaluated(tmp_path, "one", None)
    for number in (1, 2, 9):
        paths = evaluated(tmp_path, "parts", f"{number}/2" if number < 9 else "9/9")
        assert len(paths) == (number < 9)
    parts = [run for n in (1, 2) for run in load_group(tmp_path / "parts" / f"it-{n}-of-2")]
    schema = json.loads((files("tta_bench") / "data/manifest.schema.json").read_text())
    assert set(parts[0].manifest) <= set(schema["properties"])
    assert [run.manifest["shard"]["number"] for run in parts] == [1, 2]
    assert sum(len(run.rows) for run in parts) == 4
    path = merge(parts, tmp_path / "merged" / "it")
    whole, (single,) = load_run(path), load_group(tmp_path / "one" / "it")
    assert path.name == single.path.name
    found, expected = workers.final(tmp_path / "merged"), workers.final(tmp_path / "one")
    name = f"{path.name} summary"
    *facts, flops, counted = found.pop(name)  # type: ignore[misc]
    *others, its_flops, its_counted = expected.pop(name)  # type: ignore[misc]
    assert found == expected
    assert facts == others == ["complete", None, 1]
    assert counted == its_counted
    assert flops == pytest.approx(its_flops, rel=1e-12)
    assert set(whole.manifest) <= set(schema["properties"])
    assert whole.summary["seconds"] == pytest.approx(sum(run.summary["seconds"] for run in parts))
    assert evaluated(tmp_path, "merged", None) == [path]  # it is whole: nothing is read again
    assert load_run(path).sessions == whole.sessions
