"""Strings hash otherwise in each process: a stand-in for another `PYTHONHASHSEED`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tta_bench.contract.source import source_files

_SALT = "another process"


@contextmanager
def other_hashes(cls: type) -> Iterator[None]:
    """Inside the block `hash()` of strings is another one in the sources of a method.

    The order of sets of strings, which a seed of hashes moves too, stays what it is.
    """
    files = {file.resolve() for file in source_files(cls).values()}
    names = {file.name for file in files}  # thousands of modules: few are worth a look at the disk
    modules = [
        module
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None))
        and os.path.basename(file) in names
        and Path(file).resolve() in files
    ]
    changed = [module for module in modules if "hash" not in vars(module)]
    for module in changed:
        vars(module)["hash"] = _salted
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["hash"]


def _salted(value: Any) -> int:
    return hash((_SALT, value)) if _holds_text(value) else hash(value)


def _holds_text(value: Any) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return any(map(_holds_text, value))
    return isinstance(value, (str, bytes))
