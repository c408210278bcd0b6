"""`tta-bench plan`: the jobs of a suite, what they cost by formula, and what is stored of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tta_bench.cli.grouping import grouped
from tta_bench.cli.options import RESULTS, Debug, Json, Name, Results
from tta_bench.cli.suite_options import SuiteOptions

if TYPE_CHECKING:
    from tta_bench.evaluation.estimate import Estimate
    from tta_bench.tables import Table


@grouped
def plan(
    options: SuiteOptions,
    name: Name = None,
    results: Results = RESULTS,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print what [bold]eval[/bold] would do with the same options; nothing runs.

    One row a job: its documents, the tokens it scores, its FLOPs by formula, and how many documents
    are stored already. It needs the configuration and the tokenizer of a model; local files of
    weights are hashed, to find stored runs, and never loaded. For example:

    tta-bench plan --dataset builtin:pydoc --method none --method dynamic-eval
    """
    from tta_bench.evaluation.estimate import estimate
    from tta_bench.evaluation.plan import plan as plan_jobs

    suite, base = options.resolve()
    jobs = plan_jobs(
        suite, plugins=options.plugin or [], trust_remote_code=options.trust_remote_code
    )
    found = list(estimate(jobs, name=name, base=base, results=results))
    if as_json:
        print(json.dumps({"jobs": [one.to_dict() for one in found]}, allow_nan=False), flush=True)
        return
    from rich.console import Console

    Console(highlight=False).print(_table(found))


def _table(found: list[Estimate]) -> Table:
    from tta_bench.format import count, si
    from tta_bench.tables import Column, Table

    def amount(key: str, show: Any) -> Any:
        return lambda row: show(row[key])

    columns = [
        Column("model", "model", left=True),
        Column("dataset", "dataset", left=True),
        Column("method", "method", left=True),
        Column("documents", "documents", show=amount("documents", count)),
        Column("stored", "stored", show=amount("stored", count)),
        Column("tokens", "tokens", show=amount("tokens", count)),
        Column("flops_per_token", "FLOPs", "per token", amount("flops_per_token", si)),
        Column("flops", "FLOPs", "in all", amount("flops", si)),
        Column("run"),
        Column("reason"),
    ]
    rows = [one.to_dict() for one in found]
    return Table(f"Jobs of {found[0].run.parent}", columns, rows, _notes(found))


def _notes(found: list[Estimate]) -> list[str]:
    """Totals, and the reason of every dash once."""
    from tta_bench.format import plural, si

    whole = [one for one in found if one.stored >= one.documents]
    known = [one.flops for one in found if one.flops is not None]
    notes = [
        f"{plural(len(found), 'job')}, {len(whole):,} of them stored whole; {si(sum(known))}FLOPs "
        f"by formula{'' if len(known) == len(found) else ', dashes apart'}"
    ]
    reasons = [f"{one.method}: {one.reason}" for one in found if one.reason]
    return notes + list(dict.fromkeys(reasons))
