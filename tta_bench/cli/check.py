"""`tta-bench check`: tests whether a method obeys the rules of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tta_bench.validity import ValidityReport

FAILED, NOT_JUDGED = 1, 3


def _methods(incomplete: str) -> list[str]:
    from tta_bench.contract.registry import available

    return [name for name in available() if name.startswith(incomplete)]


def check(
    method: Annotated[
        str,
        typer.Argument(help="Method, as NAME or NAME:KEY=VALUE,...", autocompletion=_methods),
    ],
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file that registers methods; may be repeated.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Check a method on tiny random models: causality, normalisation, reset, costs and more.

    This takes several seconds on a CPU and at most 40; probes that a slow method leaves no time for
    are skipped. The exit code is 1 if a probe fails, and 3 if none fails but some were skipped for
    lack of time.
    """
    from tta_bench.contract import registry

    for file in plugin or []:
        registry.add_plugin(file)
    from tta_bench import validity

    report = validity.check(method)
    if json_:
        typer.echo(json.dumps(report.to_dict(), allow_nan=False))
    else:
        _print(report)
        for trace in [result.trace for result in report.results if debug and result.trace]:
            typer.echo(trace, err=True)
    if report.failed:
        raise typer.Exit(FAILED)
    if report.unreached:
        raise typer.Exit(NOT_JUDGED)


def _print(report: ValidityReport) -> None:
    from tta_bench.cli.printing import output, print_text
    from tta_bench.tables.findings import findings_table

    rows = [vars(result) for result in report.results]
    output().print(findings_table(report.method, "probe", rows))
    for note in report.notes:
        print_text(f"note: {note}")
    print_text(f"{report.summary} ({report.seconds:.1f} s)")
