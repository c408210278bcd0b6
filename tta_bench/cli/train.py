"""`tta-bench train`: offline training of slow weights. PyTorch is imported only when needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from tta_bench.cli.options import DEVICE_HELP, INTERRUPTED, PLUGIN_HELP, Debug, shown
from tta_bench.training.recipe import Recipe, Schedule

RECIPE = "the recipe's"
"""The default of what only a recipe file can decide for the flag."""


def _default(value: object) -> str:
    """The default of a flag that a recipe file may decide; `value` where it does not."""
    return f"{RECIPE}, or {value}"


def train(
    method: Annotated[
        str | None,
        typer.Argument(
            help=shown(
                "Method with slow weights, as NAME or NAME:key=value,...; none trains the body "
                "alone.",
                RECIPE,
            )
        ),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help=shown(
                "Recipe, a YAML file, or a folder of them; repeatable: one after another. Flags "
                "override them.",
                "none",
            )
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help=shown("Base model: see tta-bench list models.", _default(Recipe.base))),
    ] = None,
    body: Annotated[
        Literal["frozen", "joint", "scratch"] | None,
        typer.Option(
            help=shown(
                "The base's body: kept, trained too, or trained from fresh weights.",
                _default(Recipe.body),
            )
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=shown("Texts to train on: see tta-bench list datasets.", RECIPE)),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help=shown(
                "Training steps; each reads a segment of each lane.", _default(Schedule.steps)
            ),
            min=1,
        ),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            help=shown("Documents read side by side.", _default(Schedule.lanes)),
            min=1,
        ),
    ] = None,
    segment: Annotated[
        int | None,
        typer.Option(
            help=shown("Tokens of each lane in a step.", _default(Schedule.segment)),
            min=1,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help=shown(
                "Learning rate, which falls to zero over the steps or minutes.",
                _default(Schedule.learning_rate),
            ),
        ),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(
            "--warmup-steps",
            "--warmup",
            help=shown(
                "Steps over which the learning rate rises; it has risen after a quarter of the "
                "training at the latest.",
                _default(Schedule.warmup_steps),
            ),
            min=0,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help=shown("Minutes of training, if they end before the steps.", _default("no limit"))
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help=shown("Seed of weights and of the order of texts.", _default(Schedule.seed)),
            min=0,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help=shown(
                "Folder for log and weights; of several recipes the folder of their folders.",
                "results/train/NAME",
            )
        ),
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    prepared: Annotated[
        Path | None,
        typer.Option(help=shown("Folder of texts that were prepared elsewhere.", "none")),
    ] = None,
    hidden: Annotated[
        Path | None,
        typer.Option(
            help=shown(
                "Folder in which hidden states of a frozen body are kept, so that the next heads "
                "on the same texts need not compute them.",
                "none",
            )
        ),
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Stop once the texts are fetched and tokenised.")
    ] = False,
    plugin: Annotated[list[Path] | None, typer.Option(help=PLUGIN_HELP)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what it took as one JSON object.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train the slow weights of a method, on a frozen model or together with it.

    Running the same command again continues from the last checkpoint; Ctrl-C keeps one. It takes
    one GPU, whatever the machine has; to use N, run torchrun --nproc-per-node N -m tta_bench
    train ... A folder of recipes is trained one after another; what is finished is not trained
    again. For example:

    tta-bench train fwl --base smollm2-135m --dataset builtin:stdlib --steps 500
    """
    from tta_bench.convert import Converter
    from tta_bench.errors import UsageError
    from tta_bench.extras import require
    from tta_bench.training.recipe import load_recipe, make_recipe, recipe_files

    _add_plugins(plugin or [])
    changes = {
        "method": method,
        "base": base,
        "body": body,
        "dataset": dataset,
        "steps": steps,
        "minutes": minutes,
        "lanes": lanes,
        "segment": segment,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "seed": seed,
    }
    if config:
        files = recipe_files(config)
        if method is not None and len(files) > 1:
            raise UsageError("a method on the command line is for one recipe, not for several.")
        recipes = [load_recipe(file, **changes) for file in files]
    else:
        if method is None:
            raise UsageError("name a method to train, such as fwl, or a recipe with --config.")
        named = {"name": method.split(":")[0]}
        recipes = [make_recipe(named, changes, Converter("the command line"))]
    root = Path("results") / "train"
    one = len(recipes) == 1 and not any(path.is_dir() for path in config or [])
    folders = [output if one and output else (output or root) / each.name for each in recipes]
    if len(set(folders)) < len(folders):
        raise UsageError("two of the recipes have the same name; train them one by one.")

    def say(line: str) -> None:
        typer.echo(line, err=True)

    if prepare_only:
        if any(recipe.corpus is None for recipe in recipes):
            raise UsageError(
                "--prepare-only is for a recipe that lists a corpus; a dataset needs no preparing."
            )
        for recipe, folder in zip(recipes, folders, strict=True):
            _prepare_only(recipe, folder, one, say)
        return
    require("accelerate", extra="train", what="training")
    from tta_bench.training.processes import speaks

    folder = folders[0]
    try:
        if one:
            from tta_bench.training.train import train as run

            facts = [run(recipes[0], folder, device, say, prepared, hidden)]
        else:
            from tta_bench.training.sequence import train_all

            pairs = list(zip(recipes, folders, strict=True))
            facts = train_all(pairs, device, say, prepared, hidden)
    except KeyboardInterrupt:
        if one:
            _say_what_is_kept(folder, say)
        elif speaks():
            say("Interrupted: the same command goes on with what is not finished.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json and speaks():
        told = [{"folder": str(f), **of} for f, of in zip(folders, facts, strict=True)]
        typer.echo(json.dumps(told[0] if one else told))


def _say_what_is_kept(folder: Path, say: Callable[[str], None]) -> None:
    """What is left of a training that Ctrl-C ended, said by the first of its processes."""
    from tta_bench.training.checkpoint import last_checkpoint, step_of
    from tta_bench.training.processes import speaks

    if not speaks():
        return
    last = last_checkpoint(folder)
    if last is None:
        say("Interrupted before a checkpoint: nothing is kept; the same command begins anew.")
    else:
        steps = f"{step_of(last):,} steps"
        say(f"Interrupted: {steps} are kept in {folder}; the same command goes on from there.")


def _add_plugins(files: list[Path]) -> None:
    from tta_bench.contract.registry import add_plugin

    for file in files:
        add_plugin(file)


def _prepare_only(recipe: Recipe, folder: Path, one: bool, say: Callable[[str], None]) -> None:
    from tta_bench.model.load import load_model
    from tta_bench.training.folder import PREPARED, shared_texts
    from tta_bench.training.train import training_texts

    model = load_model(recipe.base, device="cpu")
    texts = folder / PREPARED if one else shared_texts(recipe, folder)
    training_texts(recipe, texts, model, say, None)
