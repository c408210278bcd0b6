"""`tta-bench audit`: holds the rules against a stored run, on its own model and documents."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tta_bench.cli.options import PLUGIN_HELP, RESULTS, Debug
from tta_bench.cli.selection import RUN_HELP

if TYPE_CHECKING:
    from tta_bench.evaluation.verdict import Verdict
    from tta_bench.store import Run

NOT_VALID, NOT_JUDGED = 1, 3


def audit(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    plugin: Annotated[list[Path] | None, typer.Option(help=PLUGIN_HELP)] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--auto",
            help="Read a whole document again, or as much as a tenth of the run's time allows.",
        ),
    ] = True,
    results: Annotated[Path, typer.Option(help="Folder of stored runs.")] = RESULTS,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line instead of tables.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Audit a stored run: is what it says of its documents true, and are its costs?

    A fresh instance reads a document of the run again, alone and with other tokens behind places
    late in it; uniform tokens are read; the shared model is compared bit for bit; costs are counted
    over several steps. The verdict is stored with the run. The exit code is 1 if a run is not
    valid, and 3 if none is invalid but one could not be judged.
    """
    from tta_bench.contract.registry import add_plugin
    from tta_bench.store import find_runs, load_group

    for file in plugin or []:
        add_plugin(file)
    stored = load_group(find_runs(run, results))
    from tta_bench.evaluation.progress import Progress
    from tta_bench.evaluation.reaudit import audit_stored
    from tta_bench.evaluation.rerun import Rerunner

    with tempfile.TemporaryDirectory(prefix="tta-bench-") as scratch, Progress() as progress:
        rerunner = Rerunner(Path(scratch), progress, debug=debug)
        found = [(one, audit_stored(one, rerunner, "full" if full else "auto")) for one in stored]
    if json_:
        runs = [{"run": one.path.as_posix(), **verdict.to_dict()} for one, verdict in found]
        print(json.dumps({"runs": runs}, allow_nan=False), flush=True)
    else:
        _print(found)
    verdicts = [verdict.valid for _, verdict in found]
    if False in verdicts:
        raise typer.Exit(NOT_VALID)
    if None in verdicts:
        raise typer.Exit(NOT_JUDGED)


def _print(found: list[tuple[Run, Verdict]]) -> None:
    from tta_bench.cli.printing import output, print_text
    from tta_bench.tables.findings import findings_table

    words = {True: "valid", False: "NOT VALID", None: "validity unknown"}
    for run, verdict in found:
        findings = [vars(finding) for finding in verdict.audit.findings] if verdict.audit else []
        output().print(findings_table(run.spec, "check", findings))
        reason = f": {verdict.reason}" if verdict.reason else ""
        print_text(f"{words[verdict.valid]}{reason}")
        print_text("")
