"""Groups of runs in one file: read like folders, written by nobody, with nothing else in them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.errors import UsageError
from tta_bench.store import find_runs, load_group
from tta_bench.store.archive import packed, unpacked

PUBLISHED = Path(__file__).parents[2] / "results"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results that holds the published quickstart as a file, and an empty cache."""
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "mine.tar.xz").write_bytes(packed(PUBLISHED / "quickstart"))
    return folder


def rows(runs):
    return {run.path.name: (run.manifest, run.rows, run.summary) for run in runs}


def test_the_runs_are_those_of_the_folder(results):
    there = load_group(find_runs("mine", results, published=True))
    assert rows(there) == rows(load_group(PUBLISHED / "quickstart"))
    assert not list((results.parent / "cache").rglob("*.npz"))


@pytest.mark.parametrize("form", ["name", "path", "file", "run"])
def test_every_way_to_name_it(results, form):
    run = next((PUBLISHED / "quickstart").glob("none-*")).name
    path = results / "mine"
    name = {"name": "mine", "path": str(path), "file": f"{path}.tar.xz", "run": f"mine/{run}"}[form]
    found = find_runs(name, results, published=True)
    assert found.name == (run if form == "run" else "mine")
    assert load_group(found)


def test_the_same_group_gives_the_same_bytes(results):
    assert packed(PUBLISHED / "quickstart") == (results / "mine.tar.xz").read_bytes()


def test_it_is_unpacked_once(results):
    first = unpacked(results / "mine.tar.xz")
    (first / "trace").touch()
    assert (unpacked(results / "mine.tar.xz") / "trace").exists()


def test_a_folder_comes_before_an_archive(results):
    (results / "mine").mkdir()
    assert find_runs("mine", results, published=True) == results / "mine"


def test_nothing_can_be_added_to_it(results):
    with pytest.raises(UsageError, match=r"packed in .*mine\.tar\.xz.*tar xf"):
        find_runs("mine", results)


def test_a_run_that_is_not_in_it(results):
    with pytest.raises(UsageError, match="holds no 'nothing'"):
        find_runs("mine/nothing", results, published=True)


@pytest.mark.parametrize("name", ["../out.json", "/out.json", "run/code.py", "a\\..\\out.json"])
def test_a_file_that_is_none_of_a_run_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UsageError, match="no file of a run"):
        unpacked(tmp_path / "bad.tar.xz")
    assert not list(tmp_path.rglob("out.json"))


def test_a_link_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as tar:
        entry = tarfile.TarInfo("run/manifest.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(entry)
    with pytest.raises(UsageError, match="no file of a run"):
        unpacked(tmp_path / "bad.tar.xz")


@pytest.mark.parametrize("cut", [0, 10, 500])
def test_a_damaged_archive_is_a_sentence(results, cut):
    file = results / "mine.tar.xz"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UsageError, match="no archive of runs"):
        unpacked(file)


def test_export_writes_it_and_show_reads_it(tmp_path):
    def said(*words):
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.output
        return done.stdout

    file = tmp_path / "sent.tar.xz"
    said("export", PUBLISHED / "quickstart", "--format", "tar.xz", "-o", file)
    assert said("show", file) == said("show", PUBLISHED / "quickstart")
