"""How a row's values were chosen: a sentence for people, and the trials as a table."""

from __future__ import annotations

from tta_bench.format import fixed, plural, si
from tta_bench.store.tuning import TunedParameter, Tuning
from tta_bench.tables.column import Column
from tta_bench.tables.table import Table


def tuned_text(tuning: Tuning) -> str:
    """`tuned over 7 of lr=1e-5|3e-5|1e-4 on 12 documents, 3.1 PFLOPs`, and whether at an edge."""
    sets = ", ".join(f"{one.label}={'|'.join(one.given)}" for one in tuning.parameters)
    best = tuning.best
    documents = plural(best.documents if best else 0, "document")
    flops = "FLOPs unknown" if tuning.flops is None else f"{si(tuning.flops)}FLOPs"
    text = f"tuned over {len(tuning.trials):,} of {sets} on {documents}, {flops}"
    edges = [_edge(one, tuning.values.get(one.name, "")) for one in tuning.parameters if one.edge]
    return "; ".join([text, *edges])


def _edge(one: TunedParameter, value: str) -> str:
    side = "highest" if one.values and one.values[-1] == value else "lowest"
    if one.edge == "allowed":
        return f"{one.label} at the edge of what is allowed: {value} is the {side}"
    return (
        f"{one.label} AT THE EDGE: {value} is the {side} of {len(one.values):,} values tried, so "
        "the best is not known"
    )


def tuning_table(one: Tuning) -> Table:
    """The trials of a choice, in the order in which they were made."""
    rows = [
        {
            "trial": trial.spec,
            "nll_per_token": trial.nll_per_token,
            "flops": trial.flops,
            "outcome": "chosen" if trial is one.best else trial.reason or "",
            "ranked": trial.loss is not None,
        }
        for trial in one.trials
    ]
    columns = [
        Column("trial", "trial", left=True),
        Column(
            "nll_per_token",
            "nats/token",
            show=lambda row: fixed(row["nll_per_token"], 5),
            better="lower",
            keep=True,
        ),
        Column("flops", "FLOPs", show=lambda row: si(row["flops"])),
        Column("outcome", "outcome", left=True, keep=True),
    ]
    title = f"{one.space} · {one.model} on {', '.join(d.dataset for d in one.documents)}"
    return Table(title, columns, rows, [f"{one.chosen}: {tuned_text(one)}"])
