"""`tta-bench rm`: delete stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rm(
    run: Annotated[str, typer.Argument(help="Folder of a run or group, or its name in results/.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    results: Annotated[Path, typer.Option(help="Where runs are looked for by name.")] = Path(
        "results"
    ),
) -> None:
    """Delete a run or a group of runs; other files in their folders are left alone."""
    from tta_bench.cli.runs import size
    from tta_bench.errors import UsageError
    from tta_bench.format import plural
    from tta_bench.store import find_runs
    from tta_bench.store.catalog import list_runs, remove_run

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
    if not single and not any(folder.iterdir()):
        folder.rmdir()
    typer.echo(f"Deleted {plural(len(entries), 'run')} ({total}).")
