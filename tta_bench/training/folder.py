"""The folder of a training: what it holds, whose it is, and how to use it."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

from tta_bench.contract.method import Method
from tta_bench.errors import UsageError
from tta_bench.plugin_file import plugin_of
from tta_bench.training.checkpoint import last_checkpoint
from tta_bench.training.recipe import Recipe

WEIGHTS = "weights.safetensors"
FACTS = "training.json"
NOTE = "recipe.json"
PREPARED = "prepared"
SOURCE = "source_sha256"


def finished(recipe: Recipe, source: str, folder: Path) -> dict[str, Any] | None:
    """The facts of a finished training in `folder`, if there is one.

    Args:
        recipe: what is to be trained.
        source: hash of the method's source.
        folder: where the training would be.

    Raises:
        UsageError: the folder is none, or its name cannot stand in a method's spec, or it holds no
            training at all, or that of another recipe or of another source.
    """
    note, done = folder / NOTE, folder / FACTS
    if set(str(folder)) & set(",[]"):  # which part the parameters of a method from each other
        raise UsageError(
            f"{folder} could not be named as the weights of a method; give another --output, "
            "without commas and square brackets."
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give another --output, a folder.")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if NOTE not in held and held - {PREPARED}:
        raise UsageError(f"{folder} holds files of something else; give another --output.")
    # What ended before its first checkpoint, such as a head that failed, holds nothing to keep.
    if note.is_file() and (done.is_file() or last_checkpoint(folder)):
        differences = _differences(json.loads(note.read_text()), note_of(recipe, source))
        if differences:
            raise UsageError(
                f"{folder} holds another training ({'; '.join(differences)}); give another "
                "--output or delete it."
            )
    return facts_in(folder)


def shared_texts(recipe: Recipe, folder: Path) -> Path:
    """Where recipes beside each other prepare a corpus that they share, in the tokens of a base.

    Args:
        recipe: one of them.
        folder: its own folder.
    """
    digest = "" if recipe.corpus is None else recipe.corpus.digest
    name = hashlib.sha256(f"{digest} {recipe.base}".encode()).hexdigest()[:12]
    return folder.parent / f"{PREPARED}-{name}"


def facts_in(folder: Path) -> dict[str, Any] | None:
    """The facts of the finished training in `folder`, of whichever recipe."""
    done = folder / FACTS
    return json.loads(done.read_text()) if done.is_file() else None


def note_of(recipe: Recipe, source: str) -> dict[str, Any]:
    """What makes two trainings the same."""
    return {**recipe.to_dict(), SOURCE: source}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two notes, each such as `steps: 12, now 20`."""
    was, now = ({**note, **note["train"]} for note in (old, new))
    keys = [key for key in {**was, **now} if key != "train" and was.get(key) != now.get(key)]
    return [
        f"the source of {new['method'].split(':')[0]} has changed"
        if key == SOURCE
        else f"{key}: {was.get(key)}, now {now.get(key)}"
        for key in keys
    ]


def how_to_use(cls: type[Method], recipe: Recipe, folder: Path) -> str:
    """A line with a whole command that evaluates what was trained.

    Args:
        cls: the method.
        recipe: what was trained.
        folder: where the weights are.
    """
    # Never on the texts that it was trained on.
    texts = "builtin:stdlib" if recipe.dataset == "builtin:pydoc" else "builtin:pydoc"
    words = ["tta-bench", "eval", "--dataset", texts]
    file = folder / WEIGHTS
    if not file.is_file():  # the body alone, which is a model of its own
        words += ["--model", str(folder), "--method", "none"]
        return f"evaluate it with: {shlex.join(words)}"
    plugin = plugin_of(cls.__module__)
    words += ["--model", recipe.base]
    words += [] if plugin is None else ["--plugin", str(plugin)]
    words += ["--method", "none", "--method", f"{cls.name}:weights={file}"]
    return f"evaluate it with: {shlex.join(words)}"
