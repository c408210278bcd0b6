"""Unpacking the archives of packages without writing outside their folder."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tta_bench.errors import DocumentError

_GZIPPED = (".gz", ".dz")  # .dz: dictzip, the gzip format of dictionaries
_BLOCK = 1 << 20


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a .deb, wheel, zip or tar archive into an empty folder.

    `.gz` members are decompressed in place: `a.txt.gz` becomes `a.txt`.

    Raises:
        DocumentError: the archive is damaged, would write outside the folder, or needs a program
            that is missing.
    """
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
                    # Links are skipped: they have no text of their own and may leave the folder.
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
    _gunzip_members(target)


def _write_inside(target: Path, name: str, source: IO[bytes], archive: str) -> None:
    path = (target / name).resolve()
    if not path.is_relative_to(target.resolve()):
        raise DocumentError(
            f"The archive {archive} would write outside its folder ({name!r}) and was not unpacked."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        shutil.copyfileobj(source, out, _BLOCK)


def regular_files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, sorted; links repeat a file or leave the folder."""
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
                shutil.copyfileobj(source, out, _BLOCK)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            plain.unlink(missing_ok=True)  # not gzip despite its name: kept as it is
        else:
            path.unlink()
