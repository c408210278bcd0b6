"""`tta-bench new-method`: writes a complete plugin to start from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer

from tta_bench.errors import BenchError, UsageError

_TAKEN = ("Method", "Scores", "StepShape", "Tensor", "Window")  # names the template imports


def new_method(
    name: Annotated[str, typer.Argument(help="Name of the new method, such as my-method.")],
    output: Annotated[
        Path | None,
        typer.Option(help="File to write.", show_default="NAME.py in the current folder"),
    ] = None,
) -> None:
    """Write a commented method that runs as it is, for you to change."""
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
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(source(name))
    except FileExistsError:
        raise UsageError(f"{file} exists; give another --output or remove it.") from None
    except OSError as error:
        raise BenchError(f"{file} cannot be written: {error.strerror}.") from error
    typer.echo(f"Wrote {file}. It runs as it is; try:")
    typer.echo(f"  tta-bench eval --plugin {file} --method none --method {name}")


def source(name: str) -> str:
    """The text of the plugin: `method_template.py` under the new name."""
    template = Path(__file__).with_name("method_template.py").read_text(encoding="utf-8")
    class_name = "".join(word.capitalize() for word in name.split("-"))
    if class_name in _TAKEN or keyword.iskeyword(class_name):
        class_name += "Method"
    return template.replace("my-method", name).replace("MyMethod", class_name)
