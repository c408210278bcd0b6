"""Files of weights that are missing or cut: downloads and copies that ended too early."""

from __future__ import annotations

import json
from pathlib import Path

INDEX = "model.safetensors.index.json"


def incomplete_weights(folder: Path) -> str | None:
    """A clause about the first file of weights that is missing or not whole; None if all are."""
    for name in _expected(folder):
        if not (folder / name).is_file():
            return f"{name} is missing, which {INDEX} names"
        if not _whole(folder / name):
            return f"{name} is damaged or incomplete"
    return None


def _expected(folder: Path) -> list[str]:
    """Names of the files that hold the weights, by the index where there is one."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return sorted({str(name) for name in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return sorted(path.name for path in folder.glob("*.safetensors"))


def _whole(file: Path) -> bool:
    """Whether the file is as long as its header says; no weights are read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False
