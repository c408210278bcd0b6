"""Documents from local files, folders and globs, and from unpacked packages."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tta_bench.documents.document import Document
from tta_bench.documents.rows import table_documents
from tta_bench.documents.textfile import is_text, read_text, readable_sha256
from tta_bench.errors import DocumentError

TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst")
TABLE_SUFFIXES = (".jsonl", ".parquet", ".csv")
SUPPORTED = " ".join(TEXT_SUFFIXES + TABLE_SUFFIXES)
_WILDCARD = re.compile(r"[*?[]")


@dataclass(frozen=True)
class FileSource:
    """Files below `root` in a fixed order; the keys of their documents are paths relative to it."""

    root: Path
    files: tuple[Path, ...]
    text_column: str | None

    def documents(self) -> Iterator[Document]:
        """The documents: one per text file, and one per row of a table, read in batches."""
        for path in self.files:
            name = path.relative_to(self.root).as_posix()
            if path.suffix.lower() in TABLE_SUFFIXES:
                yield from table_documents(path, name, self.text_column)
            else:
                yield Document(name, read_text(path))

    def identity(self) -> list[list[str]]:
        """Names and hashes of the files: sources with equal identities have the same documents."""
        return [
            [path.relative_to(self.root).as_posix(), readable_sha256(path)] for path in self.files
        ]


def local_files(spec: str, text_column: str | None) -> FileSource | None:
    """The files that a path or glob stands for; None if the spec is neither.

    A folder stands for its files with a supported suffix. A file that is named, or matched by a
    glob, is read as text whatever its suffix is, unless it is the suffix of a table.
    """
    # Unlike Path, os.path accepts any text: names that are too long, or of unknown users.
    path = Path(os.path.expanduser(spec))
    if os.path.isfile(path):
        return FileSource(path.parent, (path,), text_column)
    if os.path.isdir(path):
        files = [p for p in _walk(path) if p.suffix.lower() in TEXT_SUFFIXES + TABLE_SUFFIXES]
        if not files:
            raise DocumentError(
                f"The folder {path} contains no file that can be read ({SUPPORTED})."
            )
        return FileSource(path, tuple(files), text_column)
    if _WILDCARD.search(spec):
        return _matches(path, text_column)
    return None


def text_files(folder: Path, pattern: str, text_column: str | None) -> FileSource:
    """The files of a package's folder that match a glob; files that are not UTF-8 text are skipped.

    Args:
        folder: the unpacked package.
        pattern: a glob relative to the folder; empty for all files.
        text_column: the column that contains the text in tables.

    Raises:
        DocumentError: the pattern leaves the folder, or no text file matches it.
    """
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise DocumentError(f"{pattern} leads out of the package; name files inside it.")
    root = folder / pattern
    if root.is_file():
        files = [root]
    elif root.is_dir():
        files = _walk(root)
    else:
        files = sorted(p for p in _found(folder, Path(pattern).parts) if p.is_file())
    inside = folder.resolve()
    # Packages come from others: a link in one may lead anywhere.
    own = [path for path in files if path.resolve().is_relative_to(inside)]
    kept = [p for p in own if p.suffix.lower() in TABLE_SUFFIXES or is_text(p)]
    if not kept:
        raise DocumentError(f"No text file in {folder} matches {pattern or '**'}.")
    return FileSource(folder, tuple(kept), text_column)


def _matches(pattern: Path, text_column: str | None) -> FileSource:
    parts = pattern.parts
    fixed = next(i for i, part in enumerate(parts) if _WILDCARD.search(part))
    while os.path.isdir(Path(*parts[: fixed + 1])):  # a folder whose name looks like a glob
        fixed += 1
    root = Path(*parts[:fixed])
    files = sorted((p for p in _found(root, parts[fixed:]) if p.is_file()), key=Path.as_posix)
    if not files:
        raise DocumentError(f"No file matches {pattern}.")
    return FileSource(root, tuple(files), text_column)


def _found(root: Path, pattern: Sequence[str]) -> set[Path]:
    """What matches the parts of a glob below a folder.

    As `glob`, but `**` follows no link, like the reading of a folder: links may lead in circles.
    """
    if "**" not in pattern:
        return {root / match for match in glob.iglob(os.path.join("", *pattern), root_dir=root)}
    at = pattern.index("**")
    before, after = pattern[:at], pattern[at + 1 :]
    found: set[Path] = set()
    for start in _found(root, before) if before else {root}:
        for parent, folders, names in os.walk(start):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if after:
                found |= _found(Path(parent), after)
            else:
                found |= {Path(parent, name) for name in names if not name.startswith(".")}
    return found


def _walk(folder: Path) -> list[Path]:
    """The files below a folder sorted by name, without hidden files and caches."""

    def refuse(error: OSError) -> None:
        raise DocumentError(f"{error.filename} cannot be read: {error.strerror}.") from error

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=Path.as_posix)
