"""`tta-bench new-method`: writes a complete plugin to start from."""

from __future__ import annotations

import keyword
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from tta_bench.errors import BenchError, UsageError

_TAKEN = {"Method", "Scores", "StepShape", "Tensor", "Window"}
_TAKEN |= {"F", "Head", "Options", "SlowOptions", "TrainedHead"}
"""Names that a template imports or defines."""


def new_method(
    name: Annotated[str, typer.Argument(help="Name of the new method, such as my-method.")],
    output: Annotated[
        Path | None,
        typer.Option(help="File to write.", show_default="NAME.py in the current folder"),
    ] = None,
    trained: Annotated[
        bool,
        typer.Option("--trained", help="Start from a head with slow weights, trained offline."),
    ] = False,
) -> None:
    """Write a commented method that runs as it is, for you to change.

    With --trained also a recipe beside it, NAME.yaml, that [bold]train[/bold] takes as it is.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(
            f"'{name}' cannot be a method's name: use lower-case letters, digits and dashes, "
            "such as my-method."
        )
    from tta_bench.contract import registry

    known = registry.available().get(name)
    if known is not None:
        raise UsageError(
            f"there is a method '{name}' already, in {known.file}; choose another name."
        )
    file = output or Path(f"{name.replace('-', '_')}.py")
    texts = {file: source(name, trained)}
    if trained:
        texts[file.with_suffix(".yaml")] = recipe(name, file)
    for path in texts:
        if path.exists():
            raise UsageError(f"{path} exists; give another --output or remove it.")
    for path, text in texts.items():
        try:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            raise BenchError(f"{path} cannot be written: {error.strerror}.") from error
    them = "They run as they are" if trained else "It runs as it is"
    typer.echo(f"Wrote {' and '.join(map(str, texts))}. {them}; try:")
    for command in trained_commands(name, file) if trained else first_commands(name, file):
        typer.echo(f"  {command}")


def first_commands(name: str, file: Path) -> list[str]:
    """Commands that take a new plugin into use: a few minutes on a CPU.

    Args:
        name: the method.
        file: where its plugin is.
    """
    return [shlex.join(["tta-bench", "eval", *_plugin(file), *_methods(name)])]


def trained_commands(name: str, file: Path) -> list[str]:
    """Commands that check a new head, train it and its control, evaluate both and compare them.

    Args:
        name: the method.
        file: where its plugin is; the recipe is beside it.
    """
    config = ["--config", str(file.with_suffix(".yaml"))]
    trained, control = (Path("results", "train", folder) for folder in _folders(file))
    weights = [f"{name}:weights={folder}/weights.safetensors" for folder in (control, trained)]
    texts = ["--dataset", "builtin:pydoc", "--limit", "3", "--max-tokens", "2048"]
    train = ["train", *_plugin(file), *config]
    commands = [
        ["check", name, *_plugin(file)],
        train,
        [*train, f"{name}:fast=no", "--output", str(control)],
        ["eval", "--name", name, *_plugin(file), *texts, *_methods(*weights)],
        ["compare", name, "--baseline", weights[0]],
    ]
    return [shlex.join(["tta-bench", *words]) for words in commands]


def _folders(file: Path) -> tuple[str, str]:
    """Where the trained head goes, and where its control does."""
    return file.stem, f"{file.stem}-control"


def _plugin(file: Path) -> list[str]:
    return ["--plugin", str(file)]


def _methods(*specs: str) -> list[str]:
    return [word for spec in ("none", *specs) for word in ("--method", spec)]


def source(name: str, trained: bool = False) -> str:
    """The text of the plugin: a template under the new name.

    Args:
        name: the method.
        trained: whether it is to have slow weights.
    """
    file = Path(__file__).with_name("head_template.py" if trained else "method_template.py")
    template = file.read_text(encoding="utf-8")
    class_name = "".join(word.capitalize() for word in name.split("-"))
    if {class_name, f"{class_name}Head"} & _TAKEN or keyword.iskeyword(class_name):
        class_name += "Method"
    return template.replace("my-method", name).replace("MyMethod", class_name)


def recipe(name: str, file: Path) -> str:
    """The text of a recipe that trains a head.

    Args:
        name: the method.
        file: where its plugin is; the recipe belongs beside it.
    """
    text = files("tta_bench").joinpath("data/head_recipe.yaml").read_text(encoding="utf-8")
    return text.replace("my_method", file.stem).replace("my-method", name)
