"""`tta-bench speed`: how fast methods run on this device, beside plain transformers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tta_bench.cli.model_options import Adapter, DeviceMap, LoadIn, Revision, Tokenizer
from tta_bench.cli.options import (
    DEVICE_HELP,
    DTYPE_HELP,
    METHOD_HELP,
    MODEL_HELP,
    OUTPUT,
    PLUGIN_HELP,
    RESULTS,
    Debug,
    Json,
    OnOff,
    Quiet,
    Results,
    complete_methods,
    complete_models,
    shown,
    whole,
)

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.loading import Loading
    from tta_bench.speed.plan import SpeedPlan

FAILED = 1

WHAT, MACHINE = "What is measured", "Machine"


def speed(
    model: Annotated[
        str,
        typer.Option(
            help=f"{MODEL_HELP} config:FILE has random weights.",
            autocompletion=complete_models,
            rich_help_panel=WHAT,
        ),
    ] = "builtin:tiny",
    revision: Revision = None,
    tokenizer: Tokenizer = None,
    adapter: Adapter = None,
    load_in: LoadIn = None,
    device_map: DeviceMap = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=shown(
                METHOD_HELP,
                "none, fwl (fwl-untrained where no weights fit), neural-cache, and dynamic-eval of "
                "several subsets",
            ),
            autocompletion=complete_methods,
            rich_help_panel=WHAT,
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help=PLUGIN_HELP, rich_help_panel=WHAT)
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            help=shown(
                "Documents read side by side; fewer where memory runs out.", "16 on cuda, else 1"
            ),
            **whole(1),
            rich_help_panel=WHAT,
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            help=shown("Tokens scored in one step.", "1024 on cuda, else 256"),
            **whole(1),
            rich_help_panel=WHAT,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Steps timed, after warm-up.", **whole(1), rich_help_panel=WHAT)
    ] = 8,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP, rich_help_panel=MACHINE)] = "auto",
    device: Annotated[str, typer.Option(help=DEVICE_HELP, rich_help_panel=MACHINE)] = "auto",
    compile: Annotated[
        OnOff,
        typer.Option(help="Compile model and methods; auto: on cuda.", rich_help_panel=MACHINE),
    ] = "auto",
    profile: Annotated[
        Path | None,
        typer.Option(
            help=shown("Text file for a profile of one step of each method.", "no file"),
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help=shown(
                "Store the table in this folder of the results folder, in place of a former one.",
                "not stored",
            ),
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    results: Results = RESULTS,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure how fast methods run on this device, beside plain transformers.

    Every row reads the same documents of random tokens: transformers' own forward pass and the
    usual loop of dynamic evaluation first, then each method as [bold]eval[/bold] runs it. Nothing
    is predicted well or badly here; what a method gains is for [bold]eval[/bold] to say.
    """
    from tta_bench.contract.registry import add_plugin
    from tta_bench.errors import UsageError

    for file in plugin or []:
        add_plugin(file)
    if profile is not None and not profile.absolute().parent.is_dir():
        raise UsageError(f"--profile {profile}: there is no folder {profile.parent}.")

    from tta_bench.evaluation.plan import choose_methods
    from tta_bench.model.loading import Loading
    from tta_bench.model.locate import at_revision
    from tta_bench.model.prefix import prefix_id
    from tta_bench.speed.methods import chosen_methods
    from tta_bench.speed.plan import SpeedPlan, default_chunk, default_lanes

    choose_methods(method or [])  # a typing mistake should not cost the load of a model
    loading = Loading(tokenizer, adapter or "auto", load_in, device_map)
    loaded = _load(at_revision(model, revision), dtype, device, loading)
    if compile == "on" and loaded.fixed:
        raise UsageError(
            f"{loaded.name} {loaded.fixed}, and such a model runs uncompiled; leave out "
            "--compile on."
        )
    plan = SpeedPlan(
        lanes=lanes or default_lanes(loaded.device),
        chunk=chunk or default_chunk(loaded.device),
        steps=steps,
        prefix_id=prefix_id("auto", loaded.tokenizer, loaded.readable_ids),
        compile=compile == "on"
        or (compile == "auto" and loaded.device.type == "cuda" and not loaded.fixed),
    )
    choices = chosen_methods(method, loaded, plan)
    _run(loaded, plan, choices, compile, profile, name, results, as_json, quiet)


def _load(spec: str, dtype: str, device: str, loading: Loading) -> LanguageModel:
    import torch

    from tta_bench.errors import ModelError
    from tta_bench.model.load import load_model

    try:
        return load_model(spec, dtype, device, loading=loading)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{spec} does not fit into the device's memory; choose a smaller model or --dtype."
        ) from error


def _run(
    model: LanguageModel,
    plan: SpeedPlan,
    choices: list[MethodChoice],
    compile: str,
    profile: Path | None,
    name: str | None,
    results: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    from tta_bench.cli.printing import output, print_command
    from tta_bench.format import plain
    from tta_bench.speed.matrix_rate import matrix_rate
    from tta_bench.speed.measure import measure
    from tta_bench.speed.store import (
        PROFILE_FILE,
        speed_folder,
        speed_manifest,
        speed_object,
        write_speed,
    )
    from tta_bench.speed.table import speed_table
    from tta_bench.store.files import write_atomically, write_output

    def say(line: str) -> None:
        if not quiet:
            typer.echo(plain(line), err=True)

    profiles: dict[str, str] = {}
    folder = None if name is None else speed_folder(name, results)
    say("rate of matrix products")
    rate = matrix_rate(model.device, model.dtype)
    rows: list[dict[str, Any]] = []
    interrupted = False
    try:
        on_profile = None if profile is None else profiles.__setitem__
        for row in measure(model, plan, choices, say, on_profile):
            rows.append(row)
    except KeyboardInterrupt:
        interrupted = True
    speed = speed_object(speed_manifest(model, plan, compile), rate, rows, not interrupted)
    text = "\n\n".join(f"== {spec} ==\n{page}" for spec, page in profiles.items()) + "\n"
    if profile is not None:
        write_output(profile, text.encode())
    if folder is not None:
        write_speed(folder, speed)
        if profile is not None:
            write_atomically(folder / PROFILE_FILE, text.encode())
    if as_json:
        print(json.dumps(speed, allow_nan=False), flush=True)
    else:
        output().print(speed_table(speed))
        if folder is not None:
            print_command(f"Stored in {folder}. Next:")
            print_command(f"  tta-bench show {shlex.quote(str(folder))}")
    if interrupted:
        raise KeyboardInterrupt
    if any(row["status"] not in ("complete", "oom") for row in rows):
        raise typer.Exit(FAILED)
