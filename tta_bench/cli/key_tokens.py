"""`tta-bench key-tokens`: which tokens of stored runs' documents a long context predicts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tta_bench.cli.options import RESULTS, complete_models, shown
from tta_bench.cli.selection import RUN_HELP

if TYPE_CHECKING:
    from tta_bench.store.key_tokens import KeyTokens


def key_tokens(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    metric: Annotated[
        str,
        typer.Option(
            help="longppl, or longppl-N: a short context of N tokens, which moves on by N/4."
        ),
    ] = "longppl",
    evaluator: Annotated[
        str | None,
        typer.Option(
            help=shown(
                "Model that decides which tokens are key, frozen: see tta-bench list models.",
                "the model under test",
            ),
            autocompletion=complete_models,
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a hub repository contains.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line instead of sentences.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """Find the key tokens of stored runs, over which [bold]--metric longppl[/bold] is computed.

    A frozen evaluator reads each document whole and in short windows. Tokens that it predicts much
    better with the whole document behind them are key. They are stored once beside the runs of the
    group and serve every row; the same command again makes what is missing.
    """
    from tta_bench.errors import UsageError
    from tta_bench.evaluation.progress import Progress
    from tta_bench.statistics.key_tokens import rule_named
    from tta_bench.store import find_runs, load_group

    rule = rule_named(metric)
    if rule is None:
        raise UsageError(f"--metric must be longppl or longppl-N, not '{metric}'.")
    folder = find_runs(run, results)
    runs = load_group(folder)
    from tta_bench.evaluation.key_tokens import make_key_tokens

    with Progress(quiet=quiet) as progress:
        made = list(make_key_tokens(runs, rule, progress, evaluator, trust_remote_code))
    if json_:
        files = [{"file": path.as_posix(), **_facts(found)} for path, found in made]
        print(json.dumps({"key_tokens": files}, allow_nan=False), flush=True)
    else:
        _print(made, folder, metric)


def _facts(found: KeyTokens) -> dict[str, object]:
    documents = found.documents.values()
    return {
        **found.header,
        "documents": len(documents),
        "documents_without_key_tokens": sum(not document.key for document in documents),
        "tokens": sum(document.tokens for document in documents),
        "key_tokens": sum(len(document.key) for document in documents),
        "evaluator_tokens": sum(document.read for document in documents),
        "evaluator_flops": sum(document.flops for document in documents),
        "evaluator_seconds": sum(document.seconds for document in documents),
    }


def _print(made: list[tuple[Path, KeyTokens]], folder: Path, metric: str) -> None:
    from tta_bench.cli.printing import print_command, print_text
    from tta_bench.metrics.longppl import sentence

    for path, found in made:
        documents = list(found.documents.values())
        key = [len(document.key) for document in documents]
        print_text(sentence(found, sum(key), sum(map(bool, key)), len(documents)) + ".")
        print_text(f"Stored in {path.parent.name}/{path.name}. Next:")
        print_command(f"  tta-bench show {shlex.quote(str(folder))} --metric {metric}")
