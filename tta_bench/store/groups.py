"""Names of groups and runs, and finding them again."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from tta_bench.errors import UsageError
from tta_bench.store.files import explained

RESULTS = Path("results")
"""Where groups land unless told otherwise."""

_SCHEMES = re.compile(r"^(builtin|pypi|npm|debian|hf|config):")


def short_name(text: str, longest: int = 40) -> str:
    """A name for a folder: the last part of a path or spec, in lower case, digits, dots, dashes."""
    bare = _SCHEMES.sub("", text.strip()).rstrip("/").split("/")[-1]
    return slug(bare, longest)


def slug(text: str, longest: int = 48) -> str:
    """Text reduced to characters that need no quoting anywhere."""
    plain = re.sub(r"[^a-z0-9.]+", "-", text.lower())
    return plain[:longest].strip("-.") or "unnamed"


def create_group(
    name: str | None = None, *, base: str, digest: str, results: Path = RESULTS
) -> Path:
    """The folder of a group of runs, made if it is not there; see `group_folder`.

    Raises:
        UsageError: `name` is not a plain name.
        BenchError: the folder cannot be made.
    """
    group = group_folder(name, base=base, digest=digest, results=results)
    with explained(results):
        group.mkdir(parents=True, exist_ok=True)
    return group


def group_folder(
    name: str | None = None, *, base: str, digest: str, results: Path = RESULTS
) -> Path:
    """Where a group of runs belongs, whether it is there or not.

    Without a name that was given the group is named by `base` and the start of `digest`, a hash of
    what its runs have in common: the same command finds its group again.

    Raises:
        UsageError: `name` is not a plain name.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", name):
        raise UsageError(
            f"--name '{name}' must be a plain name of letters, digits, dots and dashes; "
            f"it becomes a folder in {results}/."
        )
    return results / (name or f"{base}-{digest[:8]}")


def run_folder(group: Path, manifest: dict[str, Any]) -> Path:
    """Where a run belongs in its group: its method and the start of its key."""
    digits = manifest["key"].split("-")[1][:8]
    return group / f"{slug(manifest['method']['spec'])}-{digits}"


def find_runs(name: str, results: Path = RESULTS) -> Path:
    """The folder of a run or group, given as a path or as a name under `results`.

    Raises:
        UsageError: there is none (with the closest name there is).
    """
    for path in (Path(name), results / name):
        with suppress(OSError):  # a name too long for the file system is no name of a run
            if path.is_dir():
                return path
            if path.is_file():
                return path.parent
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
        hint = f"{results}/ holds no run yet; `tta-bench eval` writes one."
    raise UsageError(f"there is no run or group '{name}'; {hint}")
