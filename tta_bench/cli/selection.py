"""Which stored runs a command is about: folders, names in the results folder, suites."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tta_bench.cli.options import shown

if TYPE_CHECKING:
    from tta_bench.store import Run

RUN_HELP = "Folder of a run or group, or its name in the results folder."
RUNS_HELP = "Folders of runs or groups, or their names in the results folder."
Suite = Annotated[
    str | None,
    typer.Option(
        help=shown("Suite whose groups in the results folder are taken, all of them.", "no suite")
    ),
]


def selected_runs(names: list[str], suite: str | None, results: Path) -> list[Run]:
    """The runs of every group or run that is named, each once.

    Raises:
        UsageError: nothing is named, or there is no such run, group or suite.
        BenchError: a file of a run is damaged.
    """
    from tta_bench.errors import UsageError
    from tta_bench.store import find_runs, load_group

    paths = [find_runs(name, results, published=True) for name in names]
    if suite is not None:
        paths += _of_suite(suite, results)
    if not paths:
        raise UsageError("name runs or groups, or a suite with --suite.")
    return list({run.path.resolve(): run for path in paths for run in load_group(path)}.values())


def _of_suite(name: str, results: Path) -> list[Path]:
    """The groups of a suite: their names are its name, or its name with a digest behind it."""
    from tta_bench.errors import UsageError
    from tta_bench.store.groups import slug

    base = slug(Path(name).stem)
    named = re.compile(re.escape(base) + r"(-[0-9a-f]{8})?")
    groups = sorted({path.parent.parent for path in results.glob("*/*/manifest.json")})
    found = [group for group in groups if named.fullmatch(group.name)]
    if not found:
        raise UsageError(f"{results}/ holds no group of the suite '{name}'; run it with `eval`.")
    return found
