"""`tta-bench train`: offline training of slow weights. PyTorch is imported only when needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from tta_bench.cli.options import DEVICE_HELP, PLUGIN_HELP, shown
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
        Path | None, typer.Option(help=shown("Recipe, a YAML file; flags override it.", "none"))
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
                f"Training steps; unless a recipe says otherwise, each reads {Schedule.segment} "
                f"tokens of each of {Schedule.lanes} documents.",
                _default(Schedule.steps),
            ),
            min=1,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help=shown("Minutes of training, if they end before the steps.", _default("no limit"))
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help=shown("Folder for log and weights.", "results/train/NAME"))
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    prepared: Annotated[
        Path | None,
        typer.Option(help=shown("Folder of texts that were prepared elsewhere.", "none")),
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Stop once the texts are fetched and tokenised.")
    ] = False,
    plugin: Annotated[list[Path] | None, typer.Option(help=PLUGIN_HELP)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what it took as one JSON object.")
    ] = False,
) -> None:
    """Train the slow weights of a method, on a frozen model or together with it.

    Running the same command again continues from the last checkpoint. To use several GPUs, run
    torchrun --nproc-per-node N -m tta_bench train ... For example:

    tta-bench train fwl --base smollm2-135m --dataset builtin:stdlib --steps 500
    """
    from tta_bench.convert import Converter
    from tta_bench.errors import UsageError
    from tta_bench.extras import require
    from tta_bench.training.recipe import load_recipe, make_recipe

    _add_plugins(plugin or [])
    changes = {
        "method": method,
        "base": base,
        "body": body,
        "dataset": dataset,
        "steps": steps,
        "minutes": minutes,
    }
    recipe: Recipe
    if config is not None:
        recipe = load_recipe(config, **changes)
    else:
        if method is None:
            raise UsageError("name a method to train, such as fwl, or a recipe with --config.")
        recipe = make_recipe({"name": method.split(":")[0]}, changes, Converter("the command line"))
    folder = output or Path("results") / "train" / recipe.name

    def say(line: str) -> None:
        typer.echo(line, err=True)

    if prepare_only:
        _prepare_only(recipe, folder, say)
        return
    require("accelerate", extra="train", what="training")
    from tta_bench.training.train import train as run

    facts = run(recipe, folder, device, say, prepared)
    if as_json:
        typer.echo(json.dumps(facts))


def _add_plugins(files: list[Path]) -> None:
    from tta_bench.contract.registry import add_plugin

    for file in files:
        add_plugin(file)


def _prepare_only(recipe: object, folder: Path, say: object) -> None:
    from tta_bench.model.load import load_model
    from tta_bench.training.train import training_texts

    model = load_model(recipe.base, device="cpu")  # type: ignore[attr-defined]
    training_texts(recipe, folder, model, say, None)  # type: ignore[arg-type]
