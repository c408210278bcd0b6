"""`tta-bench merge`: the shards of runs, put together."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tta_bench.cli.options import RESULTS, shown

if TYPE_CHECKING:
    from tta_bench.store import Run

_SUFFIX = re.compile(r"-[0-9]+-of-[0-9]+$")


def merge(
    groups: Annotated[
        list[str],
        typer.Argument(
            metavar="GROUP...",
            help="Groups that eval --shard K/N wrote: a name without its -K-of-N stands for all, "
            "or name each, as folders or in the results folder.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help=shown("Name of the group of whole runs.", "that of the shards without -K-of-N")
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
) -> None:
    """Put together what [bold]eval --shard K/N[/bold] wrote, each run of all its shards.

    It reads stored files alone, needs no model, and leaves the shards as they are. Rows and losses
    are those that one command would have written. Shards that are missing, not finished, doubled,
    cut in another way or made with other files are refused. For example:

    tta-bench merge pg19-4f1c0a2b
    """
    from tta_bench.cli.printing import print_command, print_text, program
    from tta_bench.format import plural
    from tta_bench.store import group_folder, load_group
    from tta_bench.store.merge import merge as merge_portions

    folders = [folder for group in groups for folder in _folders(group, results)]
    runs = [run for folder in folders for run in load_group(folder)]
    whole = group_folder(name or _name(folders), base="", digest="", results=results)
    for portions in _by_run(runs):
        path = merge_portions(portions, whole)
        print_text(f"{portions[0].spec}: {plural(len(portions), 'shard')} in {path}")
    print_command(f"Next: {program()} show {whole}")


def _folders(group: str, results: Path) -> list[Path]:
    """The groups of all shards of that name, else the one folder that it names."""
    from tta_bench.store import find_runs

    found: Iterable[Path] = results.glob(f"{glob.escape(group)}-*-of-*") if "/" not in group else []
    portions = [folder for folder in found if _SUFFIX.sub("", folder.name) == group]
    return sorted(portions) or [find_runs(group, results)]


def _name(folders: list[Path]) -> str:
    """The name that all groups share.

    Raises:
        UsageError: they have none in common.
    """
    from tta_bench.errors import UsageError

    names = {_SUFFIX.sub("", folder.resolve().name) for folder in folders}
    if len(names) > 1:
        raise UsageError(
            f"the groups have {len(names)} names, {' and '.join(sorted(names)[:2])}: give --name."
        )
    return names.pop()


def _by_run(runs: list[Run]) -> list[list[Run]]:
    """The portions of each run together, as their commands asked for it."""
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        asked = run.manifest["model"].get("name"), run.manifest["dataset"].get("spec"), run.spec
        found.setdefault(tuple(map(str, asked)), []).append(run)
    return list(found.values())
