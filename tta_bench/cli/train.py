"""`tta-bench train`: offline training of slow weights. PyTorch is imported only when needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def train(
    method: Annotated[
        str | None,
        typer.Argument(
            help="Method with slow weights, as NAME or NAME:key=value,...; none trains the body "
            "alone. Default: the recipe's."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Recipe, a YAML file; flags override it.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base model: see tta-bench list models.")] = None,
    body: Annotated[
        Literal["frozen", "joint", "scratch"] | None,
        typer.Option(help="The base's body: kept, trained too, or trained from fresh weights."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Texts to train on: see tta-bench list datasets. Default: the recipe's."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.", min=1)] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes of training, if they are over before the steps.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of log and weights [default: results/train/NAME].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    prepared: Annotated[
        Path | None, typer.Option(help="Folder of texts that were prepared elsewhere.")
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Stop once the texts are fetched and tokenised.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what it took as one JSON object.")
    ] = False,
) -> None:
    """Train the slow weights of a method, on a frozen model or together with it.

    Running the same command again continues from the last checkpoint. To use several GPUs, run
    torchrun --nproc-per-node N -m tta_bench train ... For example:

    tta-bench train fwl --base smollm2-135m --dataset builtin:stdlib --steps 500
    """
    from tta_bench.errors import UsageError
    from tta_bench.extras import require
    from tta_bench.training.recipe import Recipe, load_recipe, make_recipe

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
        recipe = make_recipe({"name": method.split(":")[0]}, changes, "the command line")
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
        return
    took = facts["training"]
    typer.echo(f"{took['tokens']:,} tokens in {took['seconds']:.0f} s; everything is in {folder}.")


def _prepare_only(recipe: object, folder: Path, say: object) -> None:
    from tta_bench.model.load import load_model
    from tta_bench.training.train import training_texts

    model = load_model(recipe.base, device="cpu")  # type: ignore[attr-defined]
    training_texts(recipe, folder, model, say, None)  # type: ignore[arg-type]
