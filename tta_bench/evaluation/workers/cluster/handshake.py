"""Whether a node of the cluster runs the same code on the same packages as the command."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tta_bench.errors import UsageError
from tta_bench.store.environment import describe_software, precision_overrides

_PACKAGES = ("tta_bench", "tta_bench_methods")
_OWN = "source of tta-bench"
_UNSET = "none"


def terms() -> dict[str, str]:
    """What must be the same on every machine: versions, sources, and how many digits are kept."""
    software = describe_software()
    packages = {name: version or _UNSET for name, version in software["packages"].items()}
    return {"Python": software["python"]} | packages | precision_overrides() | {_OWN: _sources()}


def require_same(theirs: Mapping[str, str]) -> None:
    """Raises UsageError where this machine does not have what the command has.

    Args:
        theirs: the `terms` of the command.
    """
    ours = terms()
    for name in {**theirs, **ours}:
        here, there = ours.get(name, _UNSET), theirs.get(name, _UNSET)
        if here == there:
            continue
        if name == _OWN:
            raise UsageError(
                "its machine has another source of tta-bench than the command; install the same "
                "on every node."
            )
        raise UsageError(
            f"its machine has {name} {here} and the command {there}; they must be the same on "
            "every node."
        )


def _sources() -> str:
    """sha256 of every Python file of the bench and of the methods that come with it."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        spec = find_spec(package)
        for folder in sorted(spec.submodule_search_locations or []) if spec else []:
            for file in sorted(Path(folder).rglob("*.py")):
                name = file.relative_to(folder).as_posix()
                digest.update(f"{package}/{name}".encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
