"""Options that several commands share, each declared once, and how their defaults are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

RESULTS = Path("results")

OUTPUT = "Output"


def shown(help_text: str, default: Any) -> str:
    """The help of an option whose default is not the option's own but a suite's or a protocol's."""
    return f"{help_text} [dim]\\[default: {default}][/dim]"


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
METHOD_HELP = "Method, as NAME or NAME:key=value,...; repeat it to name several."
PLUGIN_HELP = shown("Python file that registers methods; repeat it for several.", "none")
DTYPE_HELP = "Dtype of the weights: float32, bfloat16, ...; auto: bfloat16 on cuda, else float32."
DEVICE_HELP = "Device: cuda, mps or cpu; auto: the first of these that is there."

OnOff = Literal["auto", "on", "off"]

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
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.", rich_help_panel=OUTPUT)]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks of errors.", rich_help_panel=OUTPUT)
]
