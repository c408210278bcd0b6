"""Checkpoints of a training: what is complete, and the lanes' fast state in them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tta_bench.heads.head import State

CHECKPOINTS = "checkpoints"
BUDGET = "budget.json"
_PREFIX = "checkpoint-"
_LANES = "lanes"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of the training in `folder`."""
    found = [path.parent for path in (folder / CHECKPOINTS).glob(f"{_PREFIX}*/{BUDGET}")]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The number of steps taken when a checkpoint was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def remove_incomplete(folder: Path) -> None:
    """Removes what a kill left of a checkpoint that was being written."""
    for path in (folder / CHECKPOINTS).glob(f"{_PREFIX}*"):
        if not (path / BUDGET).is_file():
            shutil.rmtree(path)


def complete(checkpoint: Path, about: dict[str, Any]) -> None:
    """Marks a checkpoint as complete: it is whole if it has the file that is written here."""
    (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody reads
    part = checkpoint / f".{BUDGET}.part"
    part.write_text(json.dumps(about))
    os.replace(part, checkpoint / BUDGET)


def about_of(checkpoint: Path) -> dict[str, Any]:
    """What `complete` wrote."""
    return json.loads((checkpoint / BUDGET).read_text())


def save_state(checkpoint: Path, state: State, lanes: Sequence[int], rank: int) -> None:
    """Writes the fast state of the lanes that a process reads."""
    if state:
        rows = torch.tensor(lanes)
        held = {f"state.{name}": value.cpu()[rows] for name, value in state.items()}
        save_file({_LANES: rows, **held}, checkpoint / f"fast_state_{rank}.safetensors")


def load_state(checkpoint: Path, state: State) -> None:
    """Puts the fast state of all lanes back, whichever processes they belonged to."""
    for file in checkpoint.glob("fast_state_*.safetensors"):
        found = load_file(file)
        for name, value in state.items():
            value[found[_LANES].to(value.device)] = found[f"state.{name}"].to(value.device)
