"""`tta-bench rm`: delete stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tta_bench.cli.options import RESULTS
from tta_bench.cli.selection import RUN_HELP


def rm(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """Delete a run or a group of runs; other files in their folders are left alone."""
    from tta_bench.cli.runs import size
    from tta_bench.errors import UsageError
    from tta_bench.format import plural
    from tta_bench.store import find_runs
    from tta_bench.store.catalog import list_runs, remove_run
    from tta_bench.store.key_tokens import remove_key_tokens
    from tta_bench.store.tuning import remove_choices

    folder = find_runs(run, results)
    single = (folder / "manifest.json").exists()
    # A folder of groups is not deleted by one word: its runs lie two levels down.
    entries = [entry for entry in list_runs(folder) if single or entry.path.parent == folder]
    if not entries:
        raise UsageError(f"{folder} holds no run: there is no manifest.json in it or one below.")
    total = size(sum(entry.size_bytes for entry in entries))
    if not yes:
        typer.confirm(f"Delete {plural(len(entries), 'run')} in {folder} ({total})?", abort=True)
    for entry in entries:
        remove_run(entry.path)
    if not single:
        remove_key_tokens(folder)
        remove_choices(folder)
    if not single and not any(folder.iterdir()):
        folder.rmdir()
    typer.echo(f"Deleted {plural(len(entries), 'run')} ({total}).")
