"""Names of groups and runs, and how runs are found by name."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from tta_bench.checkout import PUBLISHED
from tta_bench.errors import UsageError
from tta_bench.store.archive import archive_of, unpacked
from tta_bench.store.files import explained

RESULTS = Path("results")
"""The default folder of groups."""

_SCHEMES = re.compile(r"^(builtin|pypi|npm|debian|hf|config):")


def short_name(text: str, longest: int = 40) -> str:
    """A folder name for a path or spec: its last part, in lower case, digits, dots and dashes."""
    bare = _SCHEMES.sub("", text.strip()).rstrip("/").split("/")[-1]
    return slug(bare, longest)


def slug(text: str, longest: int = 48) -> str:
    """The text reduced to characters that never need quoting."""
    plain = re.sub(r"[^a-z0-9.]+", "-", text.lower())
    return plain[:longest].strip("-.") or "unnamed"


def create_group(
    name: str | None = None,
    *,
    base: str,
    digest: str,
    results: Path = RESULTS,
    suffix: str = "",
) -> Path:
    """Creates the folder of a group of runs, unless it exists; see `group_folder`.

    Raises:
        UsageError: `name` is not a plain name.
        BenchError: the folder cannot be created.
    """
    group = group_folder(name, base=base, digest=digest, results=results, suffix=suffix)
    with explained(results):
        group.mkdir(parents=True, exist_ok=True)
    return group


def group_folder(
    name: str | None = None,
    *,
    base: str,
    digest: str,
    results: Path = RESULTS,
    suffix: str = "",
) -> Path:
    """The folder of a group of runs, whether or not it exists.

    Args:
        name: the group's name; None for a name that the same command finds again.
        base: start of such a name.
        digest: hash of what the runs have in common; its start completes such a name.
        results: the folder of groups.
        suffix: what either name ends with.

    Raises:
        UsageError: `name` is not a plain name.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", name):
        raise UsageError(
            f"--name '{name}' must be a plain name of letters, digits, dots and dashes; "
            f"it becomes a folder in {results}/."
        )
    return results / f"{name or f'{base}-{digest[:8]}'}{suffix}"


def run_folder(group: Path, manifest: dict[str, Any]) -> Path:
    """The folder of a run in its group: its method and the start of its key."""
    digits = manifest["key"].split("-")[1][:8]
    return group / f"{slug(manifest['method']['spec'])}-{digits}"


def find_runs(name: str, results: Path = RESULTS, *, published: bool = False) -> Path:
    """The folder of a run or group, given as a path or as a name in `results`.

    Args:
        name: a path, the name of a group, or GROUP/RUN.
        results: the folder of groups.
        published: whether a name that is not in the default folder may be one of the checkout that
            the bench runs from, and whether it may be packed; for those who only read.

    Raises:
        UsageError: it does not exist (the message suggests the closest name), or it is packed in
            an archive and somebody wants to write to it.
    """
    elsewhere = [PUBLISHED / name] if published and results == RESULTS else []
    for path in (Path(name), results / name, *elsewhere):
        with suppress(OSError):  # a name that is too long for the file system names no run
            if path.is_dir():
                return path
            archive = archive_of(path)
            if archive is not None:
                return _in_archive(*archive, name, published)
            if path.is_file():
                return path.parent
    with suppress(OSError):
        where = PUBLISHED / name
        if where.is_dir() or archive_of(where):
            raise UsageError(f"there is no run or group '{name}' in {results}/, but {where} is.")
    wanted = name.removeprefix(f"{results}/").rstrip("/")
    runs = [path.parent for path in results.glob("*/*/manifest.json")]
    known = sorted(
        {path.relative_to(results).as_posix() for run in runs for path in (run.parent, run)}
    )
    close = [path for path in known if wanted and wanted in path]
    close = close or difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    if close:
        hint = f"did you mean '{close[0]}'?"
    elif runs:
        newest = max(runs, key=lambda run: run.stat().st_mtime).parent.name
        hint = f"the newest group in {results}/ is '{newest}'."
    else:
        hint = (
            f"{results}/ holds no run yet; `tta-bench eval` writes one, and published ones are in "
            "the folder results of a checkout."
        )
    raise UsageError(f"there is no run or group '{name}'; {hint}")


def _in_archive(file: Path, inside: PurePosixPath, name: str, published: bool) -> Path:
    if not published:
        raise UsageError(
            f"'{name}' is packed in {file}, where nothing can be added; unpack it into a folder "
            f"with `mkdir NAME && tar xf {file} -C NAME`."
        )
    folder = unpacked(file) / inside
    if not folder.is_dir():
        raise UsageError(f"there is no run '{name}'; {file} holds no '{inside}'.")
    return folder
