"""The headline of a page: what predicts best, and what context alone would have brought."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.format import fixed
from tta_bench.report.costs import context_of
from tta_bench.report.markup import escaped
from tta_bench.tables.column import Values
from tta_bench.tables.settings import baseline_of

if TYPE_CHECKING:
    from tta_bench.report.content import Report
    from tta_bench.store import Run

Ranked = tuple["Run", Values]


def headline_of(report: Report) -> list[str]:
    """Sentences of HTML about the first family; none if there is nothing to compare."""
    family = report.families[0]
    ranked = [
        (run, row)
        for setting in family.settings
        for run, row in zip(setting.runs, setting.summary.rows, strict=True)
        if row["ranked"] and row["perplexity"]
    ]
    first = baseline_of([run for run, _ in ranked if not context_of(run)], report.baseline)
    base = next((item for item in ranked if item[0] is first), None)
    if base is None or len(ranked) < 2:
        return []
    best = min(ranked, key=lambda item: item[1]["perplexity"])
    name, perplexity = escaped(base[0].spec), f"<b>{fixed(base[1]['perplexity'], 2)}</b>"
    if best is base:
        return [f"No method has a lower perplexity than {name} with {perplexity}."]
    sentences = [f"Lowest perplexity: {_told(best, base)}; that of {name} is {perplexity}."]
    longer = [item for item in ranked if item[0].spec == base[0].spec and context_of(item[0])]
    if longer:
        control = min(longer, key=lambda item: item[1]["perplexity"])
        if control is not best:
            sentences.append(f"Context alone: {_told(control, base)}.")
    return sentences


def _told(item: Ranked, base: Ranked) -> str:
    """`13.77 by neural-cache with context 1024, at ×1.10 the FLOPs of none`."""
    run, row = item
    context = f" with {context_of(run)}" if context_of(run) else ""
    text = f"<b>{fixed(row['perplexity'], 2)}</b> by <b>{escaped(run.spec)}</b>{escaped(context)}"
    mine, theirs = row["flops_per_token"], base[1]["flops_per_token"]
    if not mine or not theirs:
        return text
    return f"{text}, at ×{fixed(mine / theirs, 2)} the FLOPs of {escaped(base[0].spec)}"
