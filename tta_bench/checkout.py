"""A checkout: its folders `methods/` and `suites/` under their package names.

An installation puts them beside `tta_bench` as `tta_bench_methods` and `tta_bench_suites`. In a
checkout they are found where they lie, so that `python -m tta_bench` knows them without being
installed, and never takes those of another checkout that is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

_TOP = Path(__file__).resolve().parent.parent
PUBLISHED = _TOP / "results"
"""The published runs of a checkout; an installation has none."""
_FOLDERS = {"tta_bench_methods": _TOP / "methods", "tta_bench_suites": _TOP / "suites"}


class _CheckoutFinder:
    """Finds the packages of the two folders."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = _FOLDERS.get(name)
        if folder is None:
            return None
        return spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def find_folders() -> None:
    """Makes the folders importable if this is a checkout."""
    if (_TOP / "pyproject.toml").is_file() and _CheckoutFinder not in sys.meta_path:
        sys.meta_path.insert(0, _CheckoutFinder)
