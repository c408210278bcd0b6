"""Packages are fetched once and unpacked safely, and every failure is one sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tta_bench.errors import DocumentError
from tta_bench.fetch import archives, packages


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def client(monkeypatch, archives: dict[str, bytes], returncode: int = 0, stderr: str = ""):
    """Replaces apt-get, npm and pip by one that leaves `archives` in its working folder.

    Returns:
        The commands that it is given, a list that grows.
    """
    calls: list[list[str]] = []

    def run(command, *, cwd=None, **_):
        calls.append(command)
        for name, data in archives.items():
            (Path(cwd) / name).write_bytes(data)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(packages.subprocess, "run", run)
    return calls


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_wheel_is_fetched_once_and_recorded(monkeypatch):
    wheel = zipped({"demo/a.py": b"x = 1\n", "demo/b.txt.gz": gzip.compress(b"hello\n")})
    calls = client(monkeypatch, {"demo-1.2-py3-none-any.whl": wheel})
    folder = packages.fetch_package("pypi:demo")
    assert packages.fetch_package("pypi:demo") == folder
    assert len(calls) == 1
    assert calls[0] == [sys.executable, "-m", "pip", "download", "--no-deps", "demo"]
    assert [p.name for p in archives.regular_files(folder)] == ["a.py", "b.txt"]
    assert (folder / "demo" / "b.txt").read_text() == "hello\n"
    record = packages.package_record("pypi:demo")
    assert (record.name, record.version) == ("demo", "1.2")
    assert record.sha256 == hashlib.sha256(wheel).hexdigest()
    assert record.archive_bytes == len(wheel)


def test_npm_version_comes_from_the_package(monkeypatch):
    archive = tarred({"package/package.json": json.dumps({"version": "3.0.1"}).encode()})
    client(monkeypatch, {"scope-books-3.0.1.tgz": archive})
    assert packages.package_record("npm:@scope/books").version == "3.0.1"


def test_source_distribution(monkeypatch):
    client(monkeypatch, {"two-words-0.9.tar.gz": tarred({"two-words-0.9/x.py": b"1\n"})})
    assert packages.package_record("pypi:two-words").version == "0.9"


def test_a_real_wheel_through_the_real_pip(tmp_path, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    wheel = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    metadata = b"Metadata-Version: 2.1\nName: ttademo\nVersion: 0.1\n"
    members = {
        "ttademo/text.txt": b"a text\n",
        "ttademo-0.1.dist-info/METADATA": metadata,
        "ttademo-0.1.dist-info/WHEEL": wheel,
        "ttademo-0.1.dist-info/RECORD": b"",
    }
    (links / "ttademo-0.1-py3-none-any.whl").write_bytes(zipped(members))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this environment has no pip")
    folder = packages.fetch_package("pypi:ttademo")
    assert (folder / "ttademo" / "text.txt").read_text() == "a text\n"
    with pytest.raises(DocumentError, match="could not fetch pypi:nosuchthing"):
        packages.fetch_package("pypi:nosuchthing")


@pytest.mark.parametrize("name", ["../../evil.txt", "/tmp/evil-tta-bench.txt"])
@pytest.mark.parametrize("build", [zipped, tarred])
def test_an_archive_cannot_write_outside(monkeypatch, cache, name, build):
    suffix = "1-py3-none-any.whl" if build is zipped else "1.tar.gz"
    client(monkeypatch, {f"evil-{suffix}": build({name: b"boo"})})
    with pytest.raises(DocumentError, match="outside its folder"):
        packages.fetch_package("pypi:evil")
    assert not list(cache.rglob("*evil*"))


def test_a_broken_archive(monkeypatch, cache):
    client(monkeypatch, {"broken-1-py3-none-any.whl": b"not a zip"})
    with pytest.raises(DocumentError, match="cannot be unpacked"):
        packages.fetch_package("pypi:broken")
    assert not [p for p in cache.rglob("*") if p.is_file()]  # nothing half-done is left


def test_unknown_package_quotes_the_client_in_one_sentence(monkeypatch):
    stderr = "Reading lists...\nE: Unable to locate package nope\n"
    client(monkeypatch, {}, returncode=100, stderr=stderr)
    with pytest.raises(DocumentError) as caught:
        packages.fetch_package("debian:nope")
    message = str(caught.value)
    assert "E: Unable to locate package nope" in message
    assert "apt-get update" in message
    assert "\n" not in message


@pytest.mark.parametrize(("spec", "tool"), [("debian:a", "apt-get"), ("npm:a", "npm")])
def test_missing_client(monkeypatch, spec, tool):
    def run(*_, **__):
        raise FileNotFoundError(tool)

    monkeypatch.setattr(packages.subprocess, "run", run)
    with pytest.raises(DocumentError, match=f"needs the program '{tool}'"):
        packages.fetch_package(spec)


def test_missing_pip(monkeypatch):
    client(monkeypatch, {}, returncode=1, stderr="/usr/bin/python: No module named pip\n")
    with pytest.raises(DocumentError, match="needs pip"):
        packages.fetch_package("pypi:a")


@pytest.mark.parametrize("spec", ["pypi:", "pypi:--index-url", "npm:../x", "gem:rails", "django"])
def test_a_malformed_spec_reaches_no_client(monkeypatch, spec):
    calls = client(monkeypatch, {})
    with pytest.raises(DocumentError, match="does not name a package"):
        packages.fetch_package(spec)
    assert not calls


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DocumentError, match="could not be stored"):
        packages.fetch_package("pypi:a")


def test_a_folder_that_lost_its_record_is_fetched_again(monkeypatch):
    calls = client(monkeypatch, {"demo-1.2-py3-none-any.whl": zipped({"demo/new.txt": b"new"})})
    folder = packages.fetch_package("pypi:demo")
    (folder / "demo" / "new.txt").rename(folder / "demo" / "old.txt")
    folder.with_name("demo.json").unlink()
    assert packages.fetch_package("pypi:demo") == folder
    assert len(calls) == 2
    assert [path.name for path in archives.regular_files(folder)] == ["new.txt"]


def test_a_record_without_a_folder_is_renewed(monkeypatch):
    client(monkeypatch, {"demo-1.2-py3-none-any.whl": zipped({"demo/a.txt": b"a"})})
    folder = packages.fetch_package("pypi:demo")
    folder.rename(folder.with_name("moved"))
    client(monkeypatch, {"demo-1.3-py3-none-any.whl": zipped({"demo/a.txt": b"a"})})
    assert packages.package_record("pypi:demo").version == "1.3"
