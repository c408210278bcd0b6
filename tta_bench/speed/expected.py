"""How long a job would take and how much memory, by measurements of `speed` that are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tta_bench.errors import BenchError
from tta_bench.evaluation.estimate import Expectation
from tta_bench.model.identity import model_identity
from tta_bench.speed.store import FILE, read_speed
from tta_bench.store.manifest import device_name, section


class StoredSpeeds:
    """Rows of all measurements in a folder of results.

    Args:
        results: the folder of groups.
    """

    def __init__(self, results: Path):
        self._found: list[dict[str, Any]] = []
        for file in sorted(results.glob(f"*/{FILE}")):
            try:
                speed = read_speed(file.parent)
            except BenchError:  # of another version; a plan can do without
                continue
            if speed is not None:
                self._found.append(speed)

    def of(self, manifest: Mapping[str, Any], chunk: int) -> Expectation | None:
        """What the row says that is nearest to a run in the length of its chunk.

        It is of the same model, dtype, method and kind of device. None if there is no such row.

        Args:
            manifest: the run's, with the device that it would have.
            chunk: tokens that a step of it scores.
        """
        rows = [
            row
            for speed in self._found
            if _place(speed["manifest"]) == _place(manifest)
            for row in speed["rows"]
            if row.get("method") == manifest["method"]["spec"] and row.get("tokens_per_second")
        ]
        if not rows:
            return None
        row = min(rows, key=lambda row: abs(math.log(row["chunk"] / chunk)))
        peak = row.get("peak_process_bytes") or row.get("peak_reserved_bytes")
        return Expectation(row["tokens_per_second"], peak, row["chunk"], row["lanes"])


def _place(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    """Model, dtype and device; of a CPU also its name and the number of its cores."""
    platform = section(manifest, "platform")
    device = device_name(manifest)
    own = (platform.get("cpu"), platform.get("cores")) if device == "cpu" else ()
    return model_identity(manifest["model"]), manifest["dtype"], device, *own
