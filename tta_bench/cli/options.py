"""Options that several commands share, each declared once, and how their defaults are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

RESULTS = Path("results")

OUTPUT = "Output"
MACHINE = "Machine (does not)"

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""
_MOST = 2**63
"""What no number of tokens, documents or a seed reaches."""

_LONGEST = 40
"""Characters of a wrong value that an error repeats."""


def shown(help_text: str, default: Any) -> str:
    """The help of an option whose default is not the option's own but a suite's or a protocol's."""
    return f"{help_text} [dim]\\[default: {default}][/dim]"


def whole(least: int) -> dict[str, Any]:
    """The arguments of `typer.Option` that make its value a whole number, of at least `least`.

    Typer's own error quotes the library that parses, and not what was typed.
    """
    return {"parser": _whole_number(least), "metavar": "NUMBER"}


def _whole_number(least: int) -> Callable[[str | int], int]:
    def parse(value: str | int) -> int:
        try:
            number = int(value)
        except ValueError:  # so it is, too, with thousands of digits
            number = _MOST
        if not least <= number < _MOST:
            typed = str(value)[:_LONGEST]
            raise typer.BadParameter(
                f"it must be a whole number of at least {least}, not '{typed}'."
            )
        return number

    return parse


def complete_methods(incomplete: str) -> list[str]:
    """Names of methods that begin so."""
    from tta_bench.contract.registry import available

    return [name for name in available() if name.startswith(incomplete)]


def complete_models(incomplete: str) -> list[str]:
    """Names of models that begin so."""
    from tta_bench.model.sources import MODEL_ALIASES

    names = ["builtin:tiny", *MODEL_ALIASES]
    return [name for name in names if name.startswith(incomplete)]


MODEL_HELP = "Model: see tta-bench list models."
METHOD_HELP = (
    "Method, as NAME or NAME:key=value,..., or a stack of them, NAME+NAME, the first at the "
    "bottom; repeat it to name several. A value a|b is a set, of which each is a row."
)
PLUGIN_HELP = shown("Python file that registers methods; repeat it for several.", "no file")
DTYPE_HELP = "Dtype of the weights: float32, bfloat16, ...; auto: bfloat16 on cuda, else float32."
DEVICE_HELP = "Device: cuda, mps or cpu; auto: the first of these that is there."

OnOff = Literal["auto", "on", "off"]

Caption = Annotated[
    str | None,
    typer.Option(help=shown("Caption of a table in LaTeX or HTML.", "its title; LaTeX: and notes")),
]
Name = Annotated[
    str | None,
    typer.Option(
        help=shown("Name of the group of runs, a folder in the results folder.", "SUITE-HASH"),
        rich_help_panel=OUTPUT,
    ),
]
Results = Annotated[Path, typer.Option(help="Folder of stored runs.", rich_help_panel=OUTPUT)]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object as the last line.", rich_help_panel=OUTPUT),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help=shown(
            "Processes that share the work: one a GPU, or so many on the CPU, each of one thread.",
            "this process does it",
        ),
        **whole(1),
        rich_help_panel=MACHINE,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        help=shown(
            "Ray cluster whose nodes share the work: HOST:PORT, auto, or local for one of its own; "
            "one worker a GPU, or so many on CPUs as --workers says.",
            "no cluster",
        ),
        rich_help_panel=MACHINE,
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="K/N",
        help=shown(
            "The K-th of N portions of the documents, into a group of its own; merge puts all N "
            "together. It takes --workers, 1 unless more are asked for.",
            "all documents",
        ),
        rich_help_panel=MACHINE,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.", rich_help_panel=OUTPUT)]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks of errors.", rich_help_panel=OUTPUT)
]
