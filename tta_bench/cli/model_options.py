"""The options that say how a model is loaded, declared once for all commands that load one."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tta_bench.cli.options import shown

PANEL = "How the model is loaded (moves the number)"

Revision = Annotated[
    str | None,
    typer.Option(
        help=shown("Branch, tag or commit of a model of the hub, as NAME@REVISION is.", "main"),
        rich_help_panel=PANEL,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        help=shown("Model or folder whose tokenizer is used, as --model takes it.", "its own"),
        rich_help_panel=PANEL,
    ),
]
Adapter = Annotated[
    Literal["auto", "merged", "beside"] | None,
    typer.Option(
        help=shown(
            "Adapter of PEFT: merged into its base, or beside it; auto: merged, but not with "
            "--load-in.",
            "auto",
        ),
        rich_help_panel=PANEL,
    ),
]
LoadIn = Annotated[
    Literal["4bit", "8bit"] | None,
    typer.Option(
        help=shown(
            "Round the weights with bitsandbytes on a GPU; methods that change them do not run.",
            "the dtype",
        ),
        rich_help_panel=PANEL,
    ),
]
DeviceMap = Annotated[
    Literal["auto"] | None,
    typer.Option(
        help=shown(
            "Spread the model over all GPUs; methods that change its weights do not run.",
            "one device",
        ),
        rich_help_panel=PANEL,
    ),
]
