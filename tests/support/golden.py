"""Numbers of other implementations that ours must give: files by system, here or elsewhere.

`TTA_BENCH_GOLDEN` names another folder of the same form (`SYSTEM/FILE`). A test runs every file of
its system, whatever its sizes; a system that such a folder lacks is skipped. Here none may lack.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

OWN = Path(__file__).parents[1] / "golden"
FOLDER = Path(os.environ.get("TTA_BENCH_GOLDEN") or OWN)


def golden(system: str, pattern: str = "*.npz") -> list:
    """The files of a system that match, as parameters of a test, named by their stems."""
    found = sorted((FOLDER / system).glob(pattern))
    if found:
        return [pytest.param(path, id=path.stem) for path in found]
    lack = f"{FOLDER} has no {system}/{pattern}"
    if FOLDER.resolve() == OWN.resolve():
        raise FileNotFoundError(lack)
    return [pytest.param(None, id="none", marks=pytest.mark.skip(reason=lack))]
