"""``tta-bench train``: offline training. Torch and transformers are imported by the command that
needs them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Train offline, from a recipe.")


@app.callback()
def train() -> None:
    """Train offline, from a recipe."""


@app.command("lm")
def train_lm(
    config: Annotated[Path, typer.Option(help="The recipe, a YAML file.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the model [default: results/train/NAME].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    prepare_only: Annotated[
        bool,
        typer.Option("--prepare-only", help="Stop once texts, tokenizer and tokens are there."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the measured numbers as one JSON object.")
    ] = False,
) -> None:
    """Train a small language model: fetch texts, make a tokenizer, train, score held-out files."""
    from tta_bench.training.prepare import prepare
    from tta_bench.training.recipe import load_recipe

    recipe = load_recipe(config)
    folder = output or Path("results") / "train" / recipe.name
    prepared = prepare(recipe, folder / "prepared", lambda line: typer.echo(line, err=True))
    if prepare_only:
        numbers = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))
    else:
        from tta_bench.training.lm import train

        numbers = train(recipe, prepared, folder, device)
    if as_json:
        typer.echo(json.dumps(numbers))
    elif prepare_only:
        typer.echo(f"Prepared data is in {prepared}.")
    else:
        scores = numbers["heldout"]["all"]
        typer.echo(
            f"Model and card are in {folder}: held-out loss {scores['nats_per_token']:.4f} nats "
            f"per token, {scores['bits_per_byte']:.4f} bits per byte."
        )
