"""`tta-bench check-model`: tests whether a model reads as the protocol relies on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from tta_bench.cli.model_options import Adapter, DeviceMap, LoadIn, Revision, Tokenizer
from tta_bench.cli.options import DEVICE_HELP, DTYPE_HELP, MODEL_HELP, Debug, complete_models

if TYPE_CHECKING:
    from tta_bench.model.findings import Finding
    from tta_bench.model.language_model import LanguageModel

REFUSED = 1

_COLOURS = {"ok": "green", "failed": "bold red", "no": "yellow", "not tried": "yellow"}


def check_model(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, autocompletion=complete_models)],
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "auto",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    revision: Revision = None,
    tokenizer: Tokenizer = None,
    adapter: Adapter = None,
    load_in: LoadIn = None,
    device_map: DeviceMap = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the hub repository brings.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Check a model: its weights, causality, padding, and keys that are carried.

    Every command that makes numbers does this as it loads a model, and refuses those that this one
    refuses. The exit code is 1 if the model is refused, else 0.
    """
    import torch

    from tta_bench.errors import ModelError
    from tta_bench.model.load import tried_model
    from tta_bench.model.loading import Loading
    from tta_bench.model.locate import at_revision

    model = at_revision(model, revision)
    loading = Loading(tokenizer, adapter or "auto", load_in, device_map)
    try:
        tried = tried_model(model, dtype, device, trust_remote_code, loading)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{model} does not fit into the device's memory; choose a smaller model or --dtype."
        ) from error
    if json_:
        typer.echo(json.dumps(_facts(tried)))
    else:
        _print(tried)
    if not tried.acceptance.usable:
        raise typer.Exit(REFUSED)


def _facts(model: LanguageModel) -> dict[str, object]:
    return {
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "usable": model.acceptance.usable,
        "verdict": _verdict(model),
        "findings": model.acceptance.to_dict(),
    }


def _verdict(model: LanguageModel) -> str:
    """What may be done with the model, in a sentence or two."""
    from tta_bench.model.findings import CACHE, USE

    accepted = model.acceptance
    refused = accepted.forbids(USE)
    if refused is not None:
        return f"{model.name} is refused: it {refused.detail}; {refused.advice}."
    cache = accepted.forbids(CACHE)
    limits = [] if cache is None else [f"it {cache.detail}; {cache.advice}."]
    sentences = [sentence[0].upper() + sentence[1:] for sentence in (*limits, *accepted.remarks)]
    return " ".join([f"{model.name} is usable.", *sentences])


def _outcome(finding: Finding) -> str:
    """The outcome in a word; what a usable model cannot do is a limit and no failure."""
    from tta_bench.model.findings import USE

    return "no" if finding.outcome == "failed" and USE not in finding.forbids else finding.outcome


def _print(model: LanguageModel) -> None:
    from rich.table import Table
    from rich.text import Text

    from tta_bench.cli.printing import output, print_text
    from tta_bench.format import plain

    kind = str(model.dtype).removeprefix("torch.")
    table = Table(title=Text(plain(f"{model.name} in {kind}")), title_justify="left")
    for header in ("property", "", "the model ..."):
        table.add_column(header)
    for finding in model.acceptance.findings:
        # Names in files of unknown origin may hold Rich markup, or control a terminal.
        outcome = _outcome(finding)
        table.add_row(
            finding.name,
            Text(outcome, _COLOURS[outcome]),
            Text(plain(finding.detail)),
        )
    output().print(table)
    print_text(_verdict(model))
