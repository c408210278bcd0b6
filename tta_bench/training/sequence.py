"""Several recipes, one after another: what is finished is skipped, what fails is said at the end.

Each has its own folder below one root, as if it had been trained alone. Recipes on the same corpus
and base share their prepared texts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tta_bench.errors import BenchError, UsageError
from tta_bench.format import duration, plural, si
from tta_bench.training.folder import facts_in, shared_texts
from tta_bench.training.processes import join
from tta_bench.training.recipe import Recipe
from tta_bench.training.train import silence, train

Say = Callable[[str], None]


def train_all(
    recipes: Sequence[tuple[Recipe, Path]],
    device: str = "auto",
    say: Say = print,
    prepared: Path | None = None,
    hidden: Path | None = None,
) -> list[dict[str, Any]]:
    """The facts of each training, in order.

    Args:
        recipes: each with its folder.
        device: as in `train`.
        say: called with each message for the user.
        prepared: as in `train`, for all of them.
        hidden: as in `train`, for all of them.

    Raises:
        UsageError: some of them failed, after all others were trained.
        KeyboardInterrupt: Ctrl-C, which ends the sequence.
    """
    processes = join(device)
    if not processes.first:
        say = silence
    todo = sum(_tokens(recipe) for recipe, folder in recipes if facts_in(folder) is None)
    say(
        f"{plural(len(recipes), 'recipe')}, {sum(r.train.steps for r, _ in recipes):,} steps; "
        f"{si(todo)} tokens at most are still to be read{_time_of(recipes)}"
    )
    found, failed = [], []
    for number, (recipe, folder) in enumerate(recipes, start=1):
        say(f"--- {number} of {len(recipes)}: {recipe.name}{_time_of(recipes)}")
        texts = shared_texts(recipe, folder)
        try:
            found.append(train(recipe, folder, device, say, prepared, hidden, texts))
        except BenchError as error:
            if processes.count > 1:  # the others wait for this one
                raise
            say(f"{recipe.name} failed: {error}")
            failed.append(recipe.name)
        _release()
    processes.part()
    if failed:
        raise UsageError(
            f"{len(failed)} of {len(recipes)} recipes failed ({', '.join(failed)}); what went "
            "wrong is said above, and the same command tries them again."
        )
    return found


def _tokens(recipe: Recipe) -> int:
    """Tokens that a recipe reads, if no slot is padding."""
    schedule = recipe.train
    return schedule.steps * schedule.lanes * schedule.segment


def _time_of(recipes: Sequence[tuple[Recipe, Path]]) -> str:
    """What is known of the time that is left, from the trainings that have ended."""
    read, seconds, left = 0.0, 0.0, 0
    for recipe, folder in recipes:
        facts = facts_in(folder)
        if facts is None:
            left += _tokens(recipe)
        elif facts["training"]["seconds"]:
            read += facts["training"]["tokens"]
            seconds += facts["training"]["seconds"]
    if not left:
        return ""
    if not seconds:
        return "; how long it takes is known after the first"
    return f"; about {duration(left * seconds / read)} at the pace of those that are done"


def _release() -> None:
    """Frees what the last training compiled and held, so that the next begins as if alone."""
    gc.collect()
    if torch.cuda.is_available():  # elsewhere nothing is compiled
        torch.compiler.reset()  # a function is compiled for so many shapes at most
        torch.cuda.empty_cache()
