"""The run in which a fresh method reads each document that another run read without a reset."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tta_bench.store.groups import run_folder
from tta_bench.store.key import run_key
from tta_bench.store.reader import load_run

if TYPE_CHECKING:
    from tta_bench.store.run import Run


@lru_cache(maxsize=128)
def fresh_pair(run: Run) -> Run | None:
    """The run of the same method, documents and protocol but with a reset at each document, from
    the same group; None if it is not there.

    Raises:
        BenchError: it is damaged.
    """
    manifest = {name: value for name, value in run.manifest.items() if name != "probe"}
    manifest["protocol"] = manifest["protocol"] | {"reset": "document"}
    manifest["key"] = run_key(manifest)
    path = run_folder(run.path.absolute().parent, manifest)
    if not (path / "manifest.json").is_file():
        return None
    found = load_run(path)
    return found if found.manifest["key"] == manifest["key"] else None
