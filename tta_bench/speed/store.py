"""`results/NAME/speed.json`: one measurement of speed, sealed as the files of runs are."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.errors import BenchError, UsageError
from tta_bench.model.identity import describe_model
from tta_bench.speed.figures import goals, with_ratios
from tta_bench.speed.plan import SEED, SpeedPlan
from tta_bench.store.environment import (
    describe_device,
    describe_platform,
    describe_software,
    utc_now,
)
from tta_bench.store.files import read_json, sealed, to_json, write_atomically
from tta_bench.store.groups import create_group
from tta_bench.store.jsonable import jsonable, without_private_paths
from tta_bench.store.manifest import FLOPS_CONVENTION

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.speed.matrix_rate import MatrixRate

FILE, PROFILE_FILE = "speed.json", "profile.txt"

SCHEMA_VERSION = 1
"""Version of the file; it is raised when a reader of the former version would misread it."""


def speed_manifest(model: LanguageModel, plan: SpeedPlan, compile: str) -> dict[str, Any]:
    """What was measured on what: model, plan, device and software, without host or folder names."""
    import torch

    manifest = {
        "created": utc_now(),
        "model": describe_model(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "plan": dataclasses.asdict(plan) | {"seed": SEED},
        "compile": compile,
        "device": describe_device(str(model.device), torch),
        "platform": describe_platform(torch),
        "software": describe_software(),
        "flops_convention": FLOPS_CONVENTION,
        "command": [Path(word).name if i == 0 else word for i, word in enumerate(sys.argv)],
    }
    return without_private_paths(jsonable(manifest))


def speed_object(
    manifest: dict[str, Any], rate: MatrixRate, rows: Sequence[dict[str, Any]], complete: bool
) -> dict[str, Any]:
    """All that is stored, shown and printed as JSON.

    Args:
        complete: False where the measurement was interrupted.
    """
    rated = with_ratios(rows, rate.flops_per_second)
    whole = {
        "schema_version": SCHEMA_VERSION,
        "manifest": manifest,
        "matrix_rate": dataclasses.asdict(rate),
        "rows": rated,
        "ratios": goals(rated),
        "complete": complete,
    }
    return without_private_paths(jsonable(whole))


def speed_folder(name: str, results: Path) -> Path:
    """The folder `results/NAME`, which is created if it does not exist.

    Raises:
        UsageError: no plain name, or the folder holds runs of `eval`.
    """
    folder = create_group(name, base=name, digest="", results=results)
    if any(folder.glob("*/manifest.json")):
        raise UsageError(f"{folder} holds runs of tta-bench eval; choose another --name.")
    return folder


def write_speed(folder: Path, speed: dict[str, Any]) -> None:
    """Writes the file in place of an earlier measurement of that name."""
    write_atomically(folder / FILE, to_json(sealed(speed), indent=1))


def read_speed(folder: Path) -> dict[str, Any] | None:
    """The measurement that a folder holds; None if it holds none.

    Raises:
        BenchError: the file is damaged, or of a later version.
    """
    file = folder / FILE
    if not file.exists():
        return None
    speed, _ = read_json(file)
    if speed.get("schema_version") != SCHEMA_VERSION:
        raise BenchError(
            f"{file} is of version {speed.get('schema_version')}, and this tta-bench reads "
            f"{SCHEMA_VERSION}; take the version that wrote it."
        )
    return speed
