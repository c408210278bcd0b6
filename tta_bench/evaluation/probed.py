"""What the probes on tiny models found of a method: asked once, however many runs and processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import tempfile
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tta_bench.contract.registry import BUILT_IN_PACKAGE
from tta_bench.contract.source import source_hash
from tta_bench.fetch.packages import cache_folder
from tta_bench.validity.check import quick_checks

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.contract.method import Method

_PACKAGES = ("torch", "transformers", "numpy")
"""The packages that a verdict may depend on."""


class Probed(NamedTuple):
    """The verdict of the quick probes, those that failed, the first reason, and how they ran."""

    valid: bool | None
    failed: tuple[str, ...]
    reason: str | None
    notes: tuple[str, ...] = ()


_PROBED: dict[tuple[type[Method], str], Probed] = {}


def probed(choice: MethodChoice) -> Probed:
    """What the quick probes found.

    Once for all settings: the probes know neither the model nor the documents. That a built-in
    method passed is kept on disk, too, as long as neither its source, nor the bench, nor what they
    rest on is another. A plugin may read any file, so it is probed by every process; so is what
    did not pass.
    """
    key = choice.cls, choice.spec
    if key not in _PROBED:
        kept = _kept_in(choice)
        found = _read(kept) if kept else None
        if found is None:
            found = _probe(choice)
            if kept and found.valid:
                _keep(found, kept)
        _PROBED[key] = found
    return _PROBED[key]


def _probe(choice: MethodChoice) -> Probed:
    try:
        report = quick_checks(choice.cls, choice.params, choice.name)
    except SystemExit:  # it will raise again in its run, and its row will say so
        return Probed(None, (), "the probes could not run it")
    bad = next((r for r in report.results if r.status == "fail"), None)
    why = None if bad is None else f"{bad.probe}: {bad.sentence}"
    if report.valid is None:
        why = "the probes on tiny models could not judge it"
    return Probed(report.valid, report.failed, why, report.notes)


def _kept_in(choice: MethodChoice) -> Path | None:
    """The file that remembers whether a method passed; None for what must always be probed."""
    parts = getattr(choice.cls, "parts", None) or (choice.cls,)
    if any(part.__module__.partition(".")[0] != BUILT_IN_PACKAGE for part in parts):
        return None
    identity = [choice.spec, repr(choice.params), source_hash(choice.cls), *_surroundings()]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return cache_folder() / "probed" / f"{digest[:32]}.json"


@lru_cache(maxsize=1)
def _surroundings() -> tuple[str, ...]:
    """Everything beside the method that its verdict may depend on."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(file.read_bytes() + b"\0")
    return (
        digest.hexdigest(),
        platform.python_version(),
        platform.machine(),
        *(f"{name} {_version(name)}" for name in _PACKAGES),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _read(file: Path) -> Probed | None:
    """What was kept; None where there is nothing, or nothing that can be read."""
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))["notes"]
        return Probed(True, (), None, tuple(map(str, notes)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(found: Probed, file: Path) -> None:
    """Keeps a verdict where that is possible; where it is not, the next process probes again."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, suffix=".writing", delete=False, encoding="utf-8"
        ) as draft:
            json.dump({"notes": found.notes}, draft)
        Path(draft.name).replace(file)
