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

    One row a job: its documents, how many are stored already, in how many shards workers would get
    the others, the tokens it scores, its FLOPs by formula, and, where [bold]speed[/bold] has stored
    a row for the model, the method and the device, the time on one device and its memory. It needs
    the configuration and the tokenizer of a model; local files of weights are hashed, to find
    stored runs, and never loaded. For example:

    tta-bench plan --dataset builtin:pydoc --method none --method dynamic-eval
    """
    from tta_bench.evaluation.estimate import estimate
    from tta_bench.evaluation.plan import plan as plan_jobs
    from tta_bench.speed.expected import StoredSpeeds

    suite, base = options.resolve()
    own: dict[str, Any] = {
        "plugins": options.plugin or [],
        "trust_remote_code": options.trust_remote_code,
    }
    where: dict[str, Any] = {"name": name, "base": base, "results": results}
    where["speed_of"] = StoredSpeeds(results).of
    more: list[str] = []
    if suite.tune is None:
        found = list(estimate(plan_jobs(suite, **own), **where))
    else:
        from tta_bench.tuning.estimate import TRIALS_NOTE, estimate_tuned

        found, more = list(estimate_tuned(suite, **own, **where)), [TRIALS_NOTE]
    if as_json:
        print(json.dumps({"jobs": [one.to_dict() for one in found]}, allow_nan=False), flush=True)
        return
    from tta_bench.cli.printing import output

    output().print(_table(found, more))


def _table(found: list[Estimate], more: list[str]) -> Table:
    from tta_bench.format import binary, count, si
    from tta_bench.tables import Column, Table, labels_of

    specs = [one.method for one in found]
    labels = dict(zip(specs, labels_of(specs), strict=True))

    def amount(key: str, show: Any) -> Any:
        return lambda row: show(row[key])

    columns = [
        Column("model", "model", left=True),
        Column("dataset", "dataset", left=True),
        Column("method", "method", left=True, show=lambda row: labels[row["method"]]),
        Column("documents", "documents", show=amount("documents", count), keep=True),
        Column("stored", "stored", show=amount("stored", count), keep=True),
        Column("tokens", "tokens", show=amount("tokens", count)),
        Column("flops_per_token", "FLOPs", "per token", amount("flops_per_token", si)),
        Column("flops", "FLOPs", "in all", amount("flops", si), keep=True),
        Column("shards", "shards", show=amount("shards", count)),
        Column("seconds", "time", "one device", amount("seconds", _time), keep=True),
        Column("memory_bytes", "memory", "GiB", amount("memory_bytes", lambda v: binary(v, 3))),
        Column("run"),
        Column("reason"),
    ]
    rows = [one.to_dict() for one in found]
    return Table(f"Jobs of {found[0].run.parent}", columns, rows, [*_notes(found), *more])


def _time(seconds: float | None) -> str:
    from tta_bench.format import DASH, duration

    return DASH if seconds is None else duration(seconds)


def _notes(found: list[Estimate]) -> list[str]:
    """Totals, and the reason of every dash once."""
    from tta_bench.format import duration, plural, si

    whole = [one for one in found if one.stored >= one.documents]
    known = [one.flops for one in found if one.flops is not None]
    apart = "" if len(known) == len(found) else ", dashes apart"
    flops = f"{si(sum(known))}FLOPs by formula{apart}" if known else "FLOPs unknown"
    notes = [f"{plural(len(found), 'job')}, {len(whole):,} of them stored whole; {flops}"]
    timed = [one for one in found if one.seconds is not None]
    if timed:
        whole_time = duration(sum(one.seconds or 0.0 for one in timed))
        others = "" if len(timed) == len(found) else ", dashes apart"
        notes.append(f"{whole_time} on one device, by rows of speed{others}")
    reasons = [f"{one.method}: {one.reason}" for one in found if one.reason]
    return notes + list(dict.fromkeys(reasons))
