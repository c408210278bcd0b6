"""`tta-bench reproduce`: run a manifest again; which numbers agree, and what else is different?"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tta_bench.cli.options import PLUGIN_HELP, Debug, shown, whole

if TYPE_CHECKING:
    from tta_bench.evaluation.agreement import Comparison
    from tta_bench.tables import Table

DISAGREES = 1


def reproduce(
    run: Annotated[str, typer.Argument(help="Folder of a run or group, or its name in results/.")],
    plugin: Annotated[list[Path] | None, typer.Option(help=PLUGIN_HELP)] = None,
    limit: Annotated[
        int | None,
        typer.Option(help=shown("Documents to repeat, from the first.", "all"), **whole(1)),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help=shown("Folder to keep the new runs in.", "none, they are only compared")),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line instead of tables.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a stored run again from its manifest, and say which numbers agree.

    On a CPU in float32 with the same PyTorch and the same processor every loss must be the same to
    the last bit; otherwise within a tolerance that is printed. What differs in the environment is
    listed. The exit code is 1 if a document does not agree.
    """
    from tta_bench.contract.registry import add_plugin
    from tta_bench.store import find_runs, load_group

    for file in plugin or []:
        add_plugin(file)
    stored = load_group(find_runs(run, published=True))
    from tta_bench.evaluation.agreement import compare_runs
    from tta_bench.evaluation.progress import Progress
    from tta_bench.evaluation.rerun import Rerunner

    found: list[Comparison] = []
    with _folder(results) as folder, Progress() as progress:
        rerunner = Rerunner(folder, progress, limit, debug)
        for one in stored:
            now, notes = rerunner.run(one)
            kept = () if results is None else (f"stored in {now.path}",)
            found.append(compare_runs(one, now, notes + kept))
    if json_:
        agrees = all(comparison.agrees for comparison in found)
        runs = [comparison.to_dict() for comparison in found]
        print(json.dumps({"agrees": agrees, "runs": runs}, allow_nan=False), flush=True)
    else:
        _print(found)
    if not all(comparison.agrees for comparison in found):
        raise typer.Exit(DISAGREES)


@contextmanager
def _folder(results: Path | None) -> Iterator[Path]:
    if results is not None:
        yield results
        return
    with tempfile.TemporaryDirectory(prefix="tta-bench-") as scratch:
        yield Path(scratch)


def _print(comparisons: list[Comparison]) -> None:
    from tta_bench.cli.printing import print_tables

    print_tables([[_table(comparison) for comparison in comparisons]])


def _table(comparison: Comparison) -> Table:
    from dataclasses import asdict

    from tta_bench.format import count, fixed
    from tta_bench.tables import Column, Table

    def loss(name: str) -> Any:
        return lambda row: fixed(row[name], 4)

    columns = [
        Column("key", "document", left=True),
        Column("tokens", "tokens", show=lambda row: count(row["tokens"])),
        Column("then", "then", "nats/token", loss("then")),
        Column("now", "now", "nats/token", loss("now")),
        Column(
            "difference", "difference", "nats/token", lambda row: _power(row["difference"], "+")
        ),
        Column("largest", "largest", "of a token", lambda row: _power(row["largest"])),
        Column("verdict", "verdict", left=True, show=_verdict, keep=True),
    ]
    rows = [asdict(document) for document in comparison.documents]
    return Table(f"{comparison.method} ({comparison.run})", columns, rows, _notes(comparison))


def _power(value: float | None, sign: str = "") -> str:
    from tta_bench.format import DASH

    if value is None:
        return DASH
    return f"{value:{sign}.1e}" if value else "0"


def _verdict(row: Mapping[str, Any]) -> str:
    return f"{row['verdict']}: {row['reason']}" if row["reason"] else str(row["verdict"])


def _notes(comparison: Comparison) -> list[str]:
    from tta_bench.format import plural

    counts = ", ".join(f"{n} {verdict}" for verdict, n in comparison.counts.items() if n)
    word = "AGREES" if comparison.agrees else "DOES NOT AGREE"
    notes = [f"{word}: {plural(len(comparison.documents), 'document')}, {counts}"]
    tolerance = comparison.tolerance
    if comparison.reason:
        notes.append(
            f"equal bits are not expected ({comparison.reason}); tolerance: {tolerance.mean:g} "
            f"nats/token of a document's mean, {tolerance.token:g} nats of a token"
        )
    else:
        notes.append("equal bits are expected: float32 on the same CPU, PyTorch and threads")
    notes += comparison.notes
    if not comparison.environment:
        notes.append("nothing differs in the environment")
    return notes + [
        f"{d.what}: {_short(d.then)} then, {_short(d.now)} now" for d in comparison.environment
    ]


def _short(text: str) -> str:
    """A hash by its first digits; `--json` has all of them."""
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text) else text
