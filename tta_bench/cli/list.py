"""`tta-bench list`: what can be named on the command line; loads no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tta_bench.contract.listing import ParamInfo

app = typer.Typer(help="List methods, models, suites, datasets or metrics.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


@app.command()
def methods(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show hyper-parameters and their defaults.")
    ] = False,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file with methods of your own.")
    ] = None,
    json_: Json = False,
) -> None:
    """List what --method takes: methods, with their families."""
    from tta_bench.contract import registry

    for file in plugin or []:
        registry.add_plugin(file)
    found = registry.available().values()
    if json_:
        rows = [
            {
                "name": info.name,
                "family": info.family,
                "summary": info.summary,
                "params": [vars(param) for param in info.params],
            }
            for info in found
        ]
        _print_json("methods", rows)
        return
    if not verbose:
        _print_lines([(info.name, info.family, info.summary) for info in found])
        return
    for info in found:
        typer.echo(f"{info.name} ({info.family}): {info.summary}")
        _print_lines([(f"  {param.name}={param.default}", _about(param)) for param in info.params])
        typer.echo()


@app.command()
def metrics(
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file that registers metrics.")
    ] = None,
    json_: Json = False,
) -> None:
    """List what --metric takes: metrics of stored runs."""
    from tta_bench.metrics import add_plugin, available

    for file in plugin or []:
        add_plugin(file)
    found = available().values()
    if json_:
        rows = [{"name": one.name, "better": one.better, "summary": one.summary} for one in found]
        _print_json("metrics", rows)
    else:
        _print_lines([(one.name, one.summary) for one in found])


@app.command()
def models(json_: Json = False) -> None:
    """List what --model takes."""
    from tta_bench.model.sources import MODEL_SOURCES

    if json_:
        _print_json("models", [{"form": form, "summary": about} for form, about in MODEL_SOURCES])
    else:
        _print_lines(MODEL_SOURCES)


@app.command()
def suites(json_: Json = False) -> None:
    """List what --suite takes: the built-in suites."""
    from tta_bench.evaluation.suite import installed_suites

    files = installed_suites()
    found = [(name, description(path.read_text(encoding="utf-8"))) for name, path in files.items()]
    if json_:
        _print_json("suites", [{"name": name, "summary": about} for name, about in found])
    else:
        _print_lines(found)


@app.command()
def datasets(json_: Json = False) -> None:
    """List what --dataset takes: built-in datasets and forms of your own."""
    from tta_bench.documents import dataset_names

    found = list(dataset_names().items())
    if json_:
        _print_json("datasets", [{"form": form, "summary": about} for form, about in found])
    else:
        _print_lines(found)


def description(text: str) -> str:
    """The description of a suite: its key `description`, else its first line of comment."""
    import yaml

    values = yaml.safe_load(text)
    if isinstance(values, dict) and values.get("description"):
        return " ".join(str(values["description"]).split())
    first = text.lstrip().split("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _about(param: ParamInfo) -> str:
    """The help of a hyper-parameter, and the values that it can have where they can be listed."""
    return f"{param.help} [{'|'.join(param.choices)}]".lstrip() if param.choices else param.help


def _print_json(kind: str, rows: list[dict[str, Any]]) -> None:
    typer.echo(json.dumps({kind: rows}))


def _print_lines(lines: Sequence[tuple[str, ...]]) -> None:
    """Prints aligned columns, the last one wrapped where there is a terminal, at its width.

    Rich could do this, but importing it takes 60 ms.
    """
    import textwrap

    from tta_bench.cli.printing import width as terminal_width

    if not lines:
        return
    *widths, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
    indent = " " * (sum(widths) + 2 * len(widths))
    room = max(24, terminal_width() - len(indent))
    for *cells, last in lines:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
        wrapped = textwrap.wrap(last, room) or [""]
        typer.echo(
            "\n".join([start + wrapped[0], *(indent + line for line in wrapped[1:])]).rstrip()
        )
