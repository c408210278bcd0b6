"""`tta-bench eval`: run methods on documents and print the summary table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tta_bench.evaluation.suite import DEFAULT_SUITE, Suite, load_suite

if TYPE_CHECKING:
    from tta_bench.store import Run

FAILED = 1

METHODS, DOCUMENTS, PROTOCOL, MACHINE, OUTPUT = (
    "What is compared",
    "Documents",
    "Protocol (moves the number)",
    "Machine (does not)",
    "Output",
)


def _methods(incomplete: str) -> list[str]:
    from tta_bench.contract.registry import available

    return [name for name in available() if name.startswith(incomplete)]


def _suites(incomplete: str) -> list[str]:
    from tta_bench.evaluation.suite import installed_suites

    return [name for name in installed_suites() if name.startswith(incomplete)]


def _models(incomplete: str) -> list[str]:
    from tta_bench.model.sources import MODEL_ALIASES

    names = ["builtin:tiny", *MODEL_ALIASES]
    return [name for name in names if name.startswith(incomplete)]


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            help="Model: see tta-bench list models.",
            autocompletion=_models,
            rich_help_panel=METHODS,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method, as NAME or NAME:key=value,...; repeat it to compare several.",
            autocompletion=_methods,
            rich_help_panel=METHODS,
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that registers methods.", rich_help_panel=METHODS),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Suite, by name or YAML file; flags override it. Default: quickstart.",
            autocompletion=_suites,
            rich_help_panel=METHODS,
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Documents: see tta-bench list datasets.", rich_help_panel=DOCUMENTS),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="Column that holds the text of a row.", rich_help_panel=DOCUMENTS),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Documents read.", min=1, rich_help_panel=DOCUMENTS)
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens read of each document.", min=2, rich_help_panel=DOCUMENTS),
    ] = None,
    min_tokens: Annotated[
        int | None,
        typer.Option(help="Leave shorter documents out.", min=0, rich_help_panel=DOCUMENTS),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="stream, lm-eval, hf-guide, llama.cpp or krause.", rich_help_panel=PROTOCOL
        ),
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Tokens scored in one step.", rich_help_panel=PROTOCOL)
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Tokens left of the chunk still seen.", rich_help_panel=PROTOCOL),
    ] = None,
    context_mode: Annotated[
        str | None,
        typer.Option(help="none, recompute or cache.", rich_help_panel=PROTOCOL),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="Window of another tool's protocol.", rich_help_panel=PROTOCOL),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Stride of hf-guide.", rich_help_panel=PROTOCOL)
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            help="Token before each document: auto, bos, eos, none or an id.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    reset: Annotated[
        str | None,
        typer.Option(help="Forget at each document, or never.", rich_help_panel=PROTOCOL),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Of the weights: auto, float32, bfloat16, ...", rich_help_panel=PROTOCOL),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of PyTorch.", rich_help_panel=PROTOCOL)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cuda, mps or cpu.", rich_help_panel=MACHINE)
    ] = None,
    lanes: Annotated[
        str | None,
        typer.Option(
            help="Documents read side by side, or auto: as many as fit.", rich_help_panel=MACHINE
        ),
    ] = None,
    compile: Annotated[
        Literal["auto", "on", "off"] | None,
        typer.Option(
            help="Compile model and methods; auto: on a GPU, where the run is long enough.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic",
            help="Use only algorithms of PyTorch that give the same bits every time.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run code that a hub repository brings.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="Folder in the results folder.", rich_help_panel=OUTPUT),
    ] = None,
    rerun: Annotated[
        Literal["missing", "failed", "all"],
        typer.Option(
            help="Of runs that are there: documents that are missing, that failed, too, or all.",
            rich_help_panel=OUTPUT,
        ),
    ] = "missing",
    results: Annotated[Path, typer.Option(help="Where runs land.", rich_help_panel=OUTPUT)] = Path(
        "results"
    ),
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object as the last line.", rich_help_panel=OUTPUT
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress.", rich_help_panel=OUTPUT)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Run methods on documents, store the runs, and print the summary table.

    With no options it runs the suite [bold]quickstart[/bold]: the built-in model on built-in text,
    in a minute on a CPU. The same command again does what is missing and nothing else. For example:

    tta-bench eval --model smollm2-135m --dataset builtin:stdlib --limit 3 --method none
    --method dynamic-eval:optimizer=adam,lr=1e-4
    """
    from tta_bench.contract.registry import add_plugin
    from tta_bench.evaluation.progress import Progress
    from tta_bench.store import load_run

    for file in plugin or []:
        add_plugin(file)
    chosen, base = _resolve(
        suite,
        named={"models": model and [model], "datasets": dataset, "methods": method},
        plain={
            "limit": limit,
            "max_tokens": max_tokens,
            "min_tokens": min_tokens,
            "text_column": text_column,
            "dtype": dtype,
            "device": device,
            "lanes": lanes,
            "compile": compile,
            "seed": seed,
            "deterministic": deterministic,
        },
        protocol={
            "name": protocol,
            "chunk": chunk,
            "context": context,
            "context_mode": context_mode,
            "window": window,
            "stride": stride,
            "prefix": prefix,
            "reset": reset,
        },
    )
    chosen.resolved_protocol()
    paths: list[Path] = []
    interrupted = False
    with Progress(quiet=quiet) as progress:
        from tta_bench.evaluation.execute import run_suite

        try:
            for path in run_suite(
                chosen,
                progress,
                name=name,
                base=base,
                results=results,
                rerun=rerun,
                trust_remote_code=trust_remote_code,
                debug=debug,
            ):
                paths.append(path)
        except KeyboardInterrupt:
            interrupted = True
    runs = [load_run(path) for path in paths]
    _print(runs, as_json)
    if interrupted:
        raise KeyboardInterrupt
    if any(run.failed for run in runs):
        raise typer.Exit(FAILED)


def _resolve(
    suite: str | None, named: dict[str, Any], plain: dict[str, Any], protocol: dict[str, Any]
) -> tuple[Suite, str | None]:
    """A suite's file, or nothing, with the flags that were given on top.

    Naming documents without a suite starts from an empty one; anything else from quickstart.

    Returns:
        The suite, and what the name of its group starts with if it comes from a file.
    """
    from tta_bench.store.groups import slug

    given = {key: value for key, value in (named | plain).items() if value not in (None, [])}
    by_flags = suite is None and "datasets" in given
    base = Suite() if by_flags else load_suite(suite or DEFAULT_SUITE)
    for key, value in given.items():
        setattr(base, key, value)
    changed = {key: value for key, value in protocol.items() if value is not None}
    if changed.get("name", base.protocol.get("name")) != base.protocol.get("name"):
        base.protocol = {}  # a suite's chunk and context mean nothing to another protocol
    if changed.get("context") == 0:
        base.protocol.pop("context_mode", None)
    base.protocol |= changed
    return base, None if by_flags else slug(Path(suite or DEFAULT_SUITE).stem)


def _print(runs: list[Run], as_json: bool) -> None:
    from rich.console import Console

    from tta_bench.tables import summary_rows, summary_tables

    if as_json:
        print(json.dumps({"rows": summary_rows(runs)}), flush=True)
        return
    console = Console()
    for table in summary_tables(runs):
        console.print(table)
    if runs:
        where = runs[0].path.parent
        console.print(f"Stored in {where}; tta-bench show {where}", markup=False)
