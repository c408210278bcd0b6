"""Runs on disk: written step by step, readable at any moment, never misread when damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from command import Command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_runs import COSTS, make_losses, make_manifest, make_row, store_run

from tta_bench.errors import BenchError, StorageError, UsageError
from tta_bench.store import (
    Run,
    RunWriter,
    create_group,
    find_runs,
    load_group,
    load_run,
    short_name,
)
from tta_bench.store.files import sealed
from tta_bench.store.rows import Row
from tta_bench.tables import summary_rows, summary_tables

COMPLETE = {"status": "complete"} | COSTS
anything = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two documents, to be copied."""
    return store_run(tmp_path_factory.mktemp("intact"), documents=2).path


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def use(run: Run) -> None:
    """Everything that tables and commands do with a run."""
    summary_rows([run])
    for table in summary_tables([run]):
        table.to_markdown()
    for row in run.rows:
        if row.nll_file:
            run.nll(row)


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = make_manifest("fwl:lr=0.1")
    with RunWriter.create(tmp_path, manifest) as writer:
        stored = [writer.append(make_row(i), make_losses(i)) for i in (1, 0)]
        skipped = writer.append(make_row(2, "skipped", reason="1 token; at least 2 are needed"))
        writer.finish(COMPLETE)
    run = load_run(writer.path)
    assert run.manifest == manifest
    assert run.rows == (stored[1], stored[0], skipped)
    assert run.status == "complete"
    assert not run.failed
    assert run.summary["documents"] == {"done": 2, "skipped": 1}
    assert run.cost("tokens_per_second") == 1234.5
    assert run.warnings == ()
    for row in run.rows[:2]:
        vector = run.nll(row)
        assert vector.dtype == np.float32
        assert np.array_equal(vector, make_losses(row.index))
        assert row.nll == float(vector.astype(np.float64).sum())


def test_the_folder_is_named_after_method_and_key(tmp_path: Path) -> None:
    manifest = make_manifest("dynamic-eval:optimizer=adam,lr=0.0001")
    run = store_run(tmp_path, "dynamic-eval:optimizer=adam,lr=0.0001")
    digits = manifest["key"].removeprefix("k1-")[:8]
    assert run.path == tmp_path / f"dynamic-eval-optimizer-adam-lr-0.0001-{digits}"
    assert files_of(run.path) == {
        "manifest.json",
        "rows.jsonl",
        "summary.json",
        "sessions.jsonl",
        *(f"nll/0000{i}.npz" for i in range(4)),
    }


def test_the_run_is_readable_at_every_step_and_not_finished_before_the_end(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    for count in range(3):
        run = load_run(writer.path)
        assert (run.status, len(run.rows), run.summary) == ("unfinished", count, {})
        use(run)
        writer.append(make_row(count), make_losses(count))
    writer.finish(COMPLETE)
    assert load_run(writer.path).status == "complete"


def test_two_equal_runs_have_equal_vectors(tmp_path: Path) -> None:
    first, second = (store_run(tmp_path / name) for name in "ab")
    for name in (f"nll/0000{i}.npz" for i in range(4)):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "interrupted by the user"),
        (ValueError("bad\nthing"), "error", "ValueError: bad"),
        (BenchError("a sentence."), "error", "a sentence."),
    ],
)
def test_leaving_by_an_exception_is_recorded(
    tmp_path: Path, error: BaseException, status: str, reason: str
) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())

    def breaks_off() -> None:
        with writer:
            writer.append(make_row(0), make_losses(0))
            raise error

    with pytest.raises(type(error)):
        breaks_off()
    run = load_run(writer.path)
    assert (run.status, run.summary["reason"], len(run.rows)) == (status, reason, 1)


def test_leaving_without_finish_is_unfinished(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, make_manifest()) as writer:
        writer.append(make_row(0), make_losses(0))
    assert load_run(writer.path).status == "unfinished"


def test_an_error_after_the_end_does_not_rewrite_it(tmp_path: Path) -> None:
    def breaks_off(writer: RunWriter) -> None:
        with writer:
            writer.finish(COMPLETE)
            raise ValueError

    writer = RunWriter.create(tmp_path, make_manifest())
    with pytest.raises(ValueError):
        breaks_off(writer)
    assert load_run(writer.path).status == "complete"


def test_figures_that_are_not_finite_are_not_known(tmp_path: Path) -> None:
    run = store_run(tmp_path, summary={"tokens_per_second": float("nan"), "seconds": float("inf")})
    assert run.cost("tokens_per_second") is None
    assert run.cost("seconds") is None


def test_the_same_run_is_not_written_twice(tmp_path: Path) -> None:
    run = store_run(tmp_path)
    before = {name: (run.path / name).read_bytes() for name in files_of(run.path)}
    with pytest.raises(UsageError, match="already holds this run"):
        RunWriter.create(tmp_path, make_manifest())
    assert {name: (run.path / name).read_bytes() for name in files_of(run.path)} == before


def test_a_folder_left_of_a_crash_before_its_manifest_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError, match=r"the disk is full: .*manifest\.json"):
        RunWriter.create(tmp_path, make_manifest())
    monkeypatch.undo()
    with pytest.raises(UsageError, match="holds no run"):
        load_group(tmp_path)
    assert store_run(tmp_path).status == "complete"


def test_a_vector_must_fit_its_row(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    with pytest.raises(ValueError, match="100 tokens but a vector"):
        writer.append(make_row(0), make_losses(1))


def full_write(descriptor: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def short_write(descriptor: int, data: bytes) -> int:
    return REAL_WRITE(descriptor, data[: len(data) // 2])


REAL_WRITE = os.write


@pytest.mark.parametrize("write", [full_write, short_write])
def test_a_full_disk_leaves_what_was_written_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[int, bytes], int]
) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.append(make_row(0), make_losses(0))
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(BenchError, match=r"the disk is full: .*rows\.jsonl"):
        writer.append(make_row(1), make_losses(1))
    monkeypatch.undo()
    assert len(load_run(writer.path).rows) == 1
    writer.append(make_row(2), make_losses(2))  # space was freed: no line is spliced into another
    run = load_run(writer.path)
    assert [row.index for row in run.rows] == [0, 2]
    assert run.warnings == ()


def test_a_disk_full_to_the_end_leaves_an_unfinished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def breaks_off(writer: RunWriter) -> None:
        with writer:
            writer.append(make_row(0), make_losses(0))

    writer = RunWriter.create(tmp_path, make_manifest())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError, match=r"the disk is full: .*00000\.npz"):
        breaks_off(writer)
    monkeypatch.undo()
    run = load_run(writer.path)
    assert (run.status, run.rows) == ("unfinished", ())
    assert files_of(writer.path) == {
        "manifest.json",
        "sessions.jsonl",
        "rows.jsonl",
    }  # no draft is left behind


@contextmanager
def as_somebody() -> Iterator[None]:
    """As a user to whom something is forbidden, which nothing is to root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with TemporaryDirectory() as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o555)
        manifest = make_manifest()
        refused = pytest.raises(BenchError, match="cannot be written: Permission denied")
        with as_somebody(), refused:
            RunWriter.create(Path(folder), manifest)


def test_a_file_in_the_place_of_the_group_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(BenchError, match="results"):
        create_group("x", base="m-d", digest="0" * 64, results=tmp_path / "results")


# Damage


def test_rows_cut_at_any_byte_give_the_whole_rows_before(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    rows = [writer.append(make_row(i), make_losses(i)) for i in range(3)]
    path = writer.path / "rows.jsonl"
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        run = load_run(writer.path)
        whole = sum(cut >= end - 1 for end in ends)  # a row without its newline is whole
        assert list(run.rows) == rows[:whole]
        torn = cut not in (0, *ends) and cut + 1 not in ends
        assert bool(run.warnings) == torn
    assert "cut short by a crash" in " ".join(run.warnings) or not torn


def test_a_finished_run_that_lost_rows_is_damaged(tmp_path: Path) -> None:
    run = store_run(tmp_path)
    path = run.path / "rows.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(BenchError, match=r"rows\.jsonl is damaged: its rows are not those"):
        load_run(run.path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 2: it is not valid JSON"),
        (b"[]", "line 2: it is not an object"),
        (b"\xff", "line 2: it is not valid JSON"),
        (b'{"key": "a"}', "line 2: it lacks 'index'"),
        ({"tokens": "many"}, "line 2: its 'tokens' is not a whole number"),
        ({"tokens": True}, "line 2: its 'tokens' is not a whole number"),
        ({"tokens": -1}, "line 2: it holds an impossible count"),
        ({"bytes": 10**400}, "line 2: it holds an impossible count"),
        ({"nll": float("nan")}, "line 2: it holds a number that is not finite"),
        ({"nll": None}, "line 2: it is done but has no 'nll'"),
        ({"tokens": 0}, "line 2: it is done but has no tokens"),
        ({"status": "fine"}, "line 2: its status 'fine' is unknown"),
        ({"crc32": "00000000"}, "line 2: its checksum is wrong"),
        (b"no checksum", "line 2: it has no checksum"),
        ({"key": "doc0.py"}, "two rows for the document doc0.py"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, line: Any, words: str) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    row = writer.append(make_row(0), make_losses(0)).to_dict()
    if isinstance(line, dict):
        line = json.dumps(sealed(row | {"key": "doc1.py", "index": 1} | line) | line).encode()
    elif line == b"no checksum":
        line = json.dumps(row | {"key": "doc1.py", "index": 1}).encode()
    with (writer.path / "rows.jsonl").open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(BenchError, match=r"rows\.jsonl is damaged") as caught:
        load_run(writer.path)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "summary.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "\x00" * 40, '{"a": NaN}', "{}", "[" * 10**5])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    run = store_run(tmp_path)
    (run.path / name).write_text(text)
    with pytest.raises(BenchError, match=name):
        load_run(run.path)


@pytest.mark.parametrize("name", ["model", "dataset", "method", "protocol", "key"])
def test_a_manifest_that_lacks_a_part_is_damaged(tmp_path: Path, name: str) -> None:
    run = store_run(tmp_path)
    lacking = {key: value for key, value in run.manifest.items() if key != name}
    (run.path / "manifest.json").write_text(json.dumps(lacking))
    with pytest.raises(BenchError, match=r"manifest\.json is damaged"):
        load_run(run.path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    run = store_run(tmp_path)
    newer = json.dumps(run.manifest | {"schema_version": 99})
    (run.path / "manifest.json").write_text(newer)
    with pytest.raises(BenchError, match="schema 99; this tta-bench reads schemas up to 2"):
        load_run(run.path)


@anything
@given(name=st.sampled_from(["manifest.json", "summary.json", "rows.jsonl"]), data=st.data())
def test_a_flipped_byte_is_never_a_traceback(
    intact: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    folder = shutil.copytree(intact, tmp_path, dirs_exist_ok=True)
    path = folder / name
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        use(load_run(folder))
    except BenchError as error:
        assert str(folder) in str(error)  # noqa: PT017 - it need not be raised at all


json_objects = st.dictionaries(
    st.sampled_from([*COSTS, "status", "documents", "reason"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
)


@anything
@given(values=json_objects)
def test_any_summary_reads_or_is_refused(
    intact: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    folder = shutil.copytree(intact, tmp_path, dirs_exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(sealed(values)))
    try:
        use(load_run(folder))
    except BenchError as error:
        assert str(folder) in str(error)  # noqa: PT017 - it need not be raised at all


def test_a_vector_damaged_anywhere_is_refused_or_equal(tmp_path: Path) -> None:
    run = store_run(tmp_path, documents=1)
    (row,) = run.rows
    path = run.path / str(row.nll_file)
    data = path.read_bytes()
    refused = 0
    for position in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            vector = run.nll(row)
        except BenchError as error:
            assert str(path) in str(error)  # noqa: PT017 - bytes of no meaning may flip unseen
            refused += 1
        else:
            assert np.array_equal(vector, make_losses(0))
    assert refused > len(data) / 3 * 0.8
    for cut in range(0, len(data), 7):
        path.write_bytes(data[:cut])
        with pytest.raises(BenchError, match="damaged"):
            run.nll(row)


def test_pickled_vectors_are_refused(tmp_path: Path) -> None:
    run = store_run(tmp_path, documents=1)
    np.savez(run.path / "nll/00000.npz", nll=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BenchError, match="damaged"):
        run.nll(run.rows[0])


def test_vectors_need_not_be_published(tmp_path: Path) -> None:
    run = store_run(tmp_path)
    for path in (run.path / "nll").iterdir():
        path.unlink()
    published = load_run(run.path)
    assert summary_rows([published]) == summary_rows([run])
    with pytest.raises(BenchError, match=r"losses of doc0\.py were not stored or not published"):
        published.nll(published.rows[0])


# Groups


def test_a_group_is_in_the_order_of_its_runs(tmp_path: Path) -> None:
    specs = ["none", "fwl", "dynamic-eval:lr=0.1", "a"]
    for spec in specs:
        store_run(tmp_path, spec, documents=1)
    assert [run.spec for run in load_group(tmp_path)] == specs
    one = load_group(tmp_path)[1].path
    assert [run.spec for run in load_group(one)] == ["fwl"]


def test_a_group_without_runs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "half-made").mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        load_group(tmp_path)


def test_group_names(tmp_path: Path) -> None:
    assert short_name("org/SmolLM2-135M@v1") == "smollm2-135m-v1"
    assert short_name("/home/ada/my model/") == "my-model"
    assert short_name("builtin:stdlib") == "stdlib"
    groups = [create_group(base="m-d", digest=d * 32, results=tmp_path) for d in ("ab", "ab", "cd")]
    assert [group.name for group in groups] == ["m-d-abababab", "m-d-abababab", "m-d-cdcdcdcd"]
    named = create_group("mine", base="m-d", digest="ab" * 32, results=tmp_path)
    assert named == tmp_path / "mine"
    assert named == create_group("mine", base="m-d", digest="cd" * 32, results=tmp_path)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "a b", "-x", ".hidden", "x" * 200])
def test_a_name_stays_in_the_results_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="must be a plain name"):
        create_group(name, base="m-d", digest="0" * 64, results=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_finding_runs_by_path_and_by_name(tmp_path: Path) -> None:
    run = store_run(tmp_path / "quickstart")
    group = run.path.parent
    assert find_runs(str(group), tmp_path) == group
    assert find_runs("quickstart", tmp_path) == group
    assert find_runs(f"quickstart/{run.path.name}", tmp_path) == run.path
    assert find_runs(str(run.path / "manifest.json"), tmp_path) == run.path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quikstart", "did you mean 'quickstart'?"),
        ("quickstart/non", "did you mean 'quickstart/none-"),
        ("zzz", "the newest group in"),
        ("x" * 5000, "the newest group in"),
        ("a\0b", "the newest group in"),
    ],
)
def test_an_unknown_run_gets_a_hint(tmp_path: Path, name: str, words: str) -> None:
    store_run(tmp_path / "quickstart", documents=1)
    with pytest.raises(UsageError, match="there is no run or group") as caught:
        find_runs(name, tmp_path)
    assert words in str(caught.value)


def test_no_results_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run yet"):
        find_runs("x", tmp_path / "results")


def test_published_runs_are_found_from_anywhere_by_those_who_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Path(__file__).parents[2] / "results"
    monkeypatch.chdir(tmp_path)
    assert find_runs("quickstart", published=True) == published / "quickstart"
    with pytest.raises(UsageError, match="there is no run or group 'quickstart' in results/") as no:
        find_runs("quickstart")  # `rm` would delete it
    assert str(published / "quickstart") in str(no.value)
    with pytest.raises(UsageError):  # who names a folder of results means that one
        find_runs("quickstart", tmp_path / "mine", published=True)
    mine = store_run(tmp_path / "results" / "quickstart").path.parent
    assert find_runs("quickstart", published=True).resolve() == mine


# Files that vanish while they are written


def remove_rows(path: Path) -> None:
    (path / "rows.jsonl").unlink()


def replace_rows(path: Path) -> None:
    content = (path / "rows.jsonl").read_bytes()
    (path / "rows.jsonl").unlink()
    (path / "rows.jsonl").write_bytes(content)


def remove_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def remove_vector(path: Path) -> None:
    (path / "nll/00000.npz").unlink()


def cut_rows(path: Path) -> None:
    (path / "rows.jsonl").write_bytes(b"")


@pytest.mark.parametrize(
    "spoil",
    [remove_rows, replace_rows, shutil.rmtree, remove_manifest, remove_vector, cut_rows],
)
def test_a_run_whose_files_vanish_while_it_is_written_fails(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    def write() -> None:
        with RunWriter.create(tmp_path, make_manifest()) as writer:
            writer.append(make_row(0), make_losses(0))
            spoil(writer.path)
            writer.finish(COMPLETE)

    with pytest.raises(StorageError, match="while the run was being written; run the command"):
        write()
    assert not list(tmp_path.glob("*/summary.json"))


def test_no_row_is_appended_to_a_file_that_is_gone(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, make_manifest()) as writer:
        writer.append(make_row(0), make_losses(0))
        remove_rows(writer.path)
        with pytest.raises(StorageError, match=r"rows\.jsonl was removed or changed"):
            writer.append(make_row(1), make_losses(1))
        assert not (writer.path / "nll/00001.npz").exists()


VANISHES = """
import pathlib
from tta_bench import Method, register

@register("vanishes")
class Vanishes(Method):
    def score(self, window):
        for file in pathlib.Path("results").glob("*/*/rows.jsonl"):
            if file.read_bytes():
                file.unlink()
        return self.model.logits(window)
"""


def test_eval_ends_in_an_error_where_its_rows_vanish(tmp_path: Path, tta_bench: Command) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(3):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"{i} " + "The lazy dog sleeps. " * 20)
    (tmp_path / "vanishes.py").write_text(VANISHES)
    words = ["eval", "--dataset", "texts", "--plugin", "vanishes.py", "--method", "vanishes"]
    done = tta_bench(*words, "--method", "none", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 2
    (sentence,) = [line for line in done.stderr.split("\n") if "rows.jsonl" in line]
    assert "removed or changed by something else" in sentence
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("results/*/none*"))  # nothing goes on after it


def test_what_a_method_says_of_a_document_is_in_its_row(tmp_path: Path) -> None:
    said = {"added": 0.25, "unknown": None}
    run = store_run(tmp_path, documents=1, extra=(make_row(1, "skipped", figures=said),))
    assert [row.figures for row in run.rows] == [None, said]
    lines = [json.loads(line) for line in (run.path / "rows.jsonl").read_text().splitlines()]
    assert "figures" not in lines[0]


@pytest.mark.parametrize("figures", [{"added": "much"}, {"added": True}, {"added": float("inf")}])
def test_a_row_whose_figures_are_no_numbers_is_refused(figures: dict[str, Any]) -> None:
    values = make_row(1, "skipped").to_dict() | {"figures": figures}
    with pytest.raises(ValueError, match="a figure that is no number"):
        Row.from_dict(values)
