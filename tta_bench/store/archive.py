"""A group of runs in one file, to publish it or to send it to somebody."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

from tta_bench.errors import UsageError
from tta_bench.fetch.packages import cache_folder
from tta_bench.files import complete_folder, file_sha256

SUFFIX = ".tar.xz"
_KEPT = (".json", ".jsonl")
"""What travels: all but the losses of single tokens, which are most of the bytes."""
_MOST_BYTES = 1 << 30


def packed(group: Path) -> bytes:
    """A compressed tar of the runs of a group; the same group gives the same bytes.

    Args:
        group: the folder of a group, or of one run.
    """
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:xz", preset=9) as tar:
        for file in sorted(path for path in group.rglob("*") if path.suffix in _KEPT):
            entry = tarfile.TarInfo(file.relative_to(group).as_posix())
            entry.size = file.stat().st_size
            with file.open("rb") as stream:
                tar.addfile(entry, stream)
    return memory.getvalue()


def archive_of(path: Path) -> tuple[Path, PurePosixPath] | None:
    """The file that a path to a group or a run is packed in, and what is meant in it.

    Args:
        path: GROUP, GROUP/RUN, or the file itself.
    """
    if path.name.endswith(SUFFIX) and path.is_file():
        return path, PurePosixPath()
    for folder, inside in ((path, ""), (path.parent, path.name)):
        file = Path(f"{folder}{SUFFIX}")
        if folder.name and file.is_file():
            return file, PurePosixPath(inside)
    return None


def unpacked(file: Path) -> Path:
    """The folder of the runs in an archive: in the cache, where it is unpacked once.

    Raises:
        UsageError: it is no archive of runs.
    """
    name = file.name.removesuffix(SUFFIX)
    folder = cache_folder() / "archives" / file_sha256(file)[:32] / name
    if not folder.is_dir():
        with complete_folder(folder, Path.is_dir) as draft:
            try:
                _unpack(file, draft)
            except (tarfile.TarError, EOFError, OSError, ValueError) as error:
                raise UsageError(f"{file} is no archive of runs: {error}.") from error
    return folder


def _unpack(file: Path, folder: Path) -> None:
    """Writes the files of an archive below a folder; nothing else that a tar can hold."""
    left = _MOST_BYTES
    with tarfile.open(file, mode="r:xz") as tar:
        for entry in tar:
            path = PurePosixPath(entry.name)
            plain = entry.isreg() and not path.is_absolute() and ".." not in path.parts
            if not plain or "\\" in entry.name or path.suffix not in _KEPT:
                raise ValueError(f"it holds '{entry.name}', which is no file of a run")
            left -= entry.size
            if left < 0:
                raise ValueError("it is larger than 1 GiB")
            stream = tar.extractfile(entry)
            if stream is not None:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stream.read())
