"""A budget: the rows of a table that cost no more, and which of them is best."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tta_bench.errors import UsageError
from tta_bench.format import BREAK, listed
from tta_bench.metrics.difference import delta_text
from tta_bench.tables.column import Column, Values
from tta_bench.tables.costs import FLOPS, STATE, TIME, Cost, front
from tta_bench.tables.table import Table

OPTION = "--budget"
COSTS = {cost.name: cost for cost in (FLOPS, STATE, TIME)}
_UNITS = {
    FLOPS.name: {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15},
    STATE.name: {
        "b": 1.0,
        "kib": 2.0**10,
        "mib": 2.0**20,
        "gib": 2.0**30,
        "kb": 1e3,
        "mb": 1e6,
        "gb": 1e9,
    },
    # Of a thousand tokens, while a cost is of one.
    TIME.name: {"us": 1e-9, "µs": 1e-9, "ms": 1e-6, "s": 1e-3},
}
_EXAMPLES = {
    FLOPS.name: "flops=2x or flops=3GF, of a token",
    STATE.name: "state=2x or state=8MiB, of a lane",
    TIME.name: "time=1.5x or time=40ms, of 1,000 tokens",
}
_AMOUNT = re.compile(r"([0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([a-zµ×]*?)")
_ROOM = 1 + 1e-9
"""What costs as much as the budget, but for rounding, is within it."""


@dataclass(frozen=True)
class Limit:
    """The most that a row may cost.

    Attributes:
        cost: what is limited.
        amount: in units of the cost, or in multiples of the baseline's.
        relative: whether `amount` is a multiple.
        text: as it was typed, `flops=2x`.
    """

    cost: Cost
    amount: float
    relative: bool
    text: str


def limit_of(text: str) -> Limit:
    """The limit in `flops=2x`, `state=8MiB` or `time=40ms`.

    Raises:
        UsageError: there is no such cost, or no such amount.
    """
    name, _, typed = (part.strip() for part in text.partition("="))
    cost = COSTS.get(name.lower())
    if cost is None:
        raise UsageError(
            f"{OPTION} '{text}' is of no known cost; write {'; '.join(_EXAMPLES.values())}."
        )
    found = _AMOUNT.fullmatch(typed.lower())
    amount, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if cost is FLOPS:
        unit = re.sub(r"f(lops?)?$", "", unit) or ("" if found and found[2] else "?")
    units = _UNITS[cost.name]
    relative = unit in ("x", "×")
    if not found or not (relative or unit in units) or not 0 <= amount < float("inf"):
        raise UsageError(
            f"{OPTION} '{text}' is no amount with its unit; write {_EXAMPLES[cost.name]}."
        )
    return Limit(cost, amount * (1 if relative else units[unit]), relative, f"{name}={typed}")


def within_budget(
    table: Table, limits: Sequence[Limit], baseline: Values | None, label: str
) -> Table:
    """The rows that keep to every limit, and the baseline; a note names the best of them.

    Args:
        table: a summary table with tests.
        limits: what may be spent; without one the table stays as it is.
        baseline: the baseline's row; None if the table has none.
        label: what the baseline is called.

    Raises:
        UsageError: a multiple of the baseline's cost is asked for, and that is not known or 0.
    """
    if not limits:
        return table
    most = {limit: _most(limit, table, baseline, label) for limit in limits}

    def keeps(row: Values) -> bool:
        costs = [(limit.cost.of(row), value) for limit, value in most.items()]
        return all(cost is not None and cost <= value * _ROOM for cost, value in costs)

    inside = [row for row in table.rows if keeps(row)]
    kept = {id(row) for row in (*inside, baseline)}
    ranked = [row for row in inside if row["ranked"] and row["nll_per_token"] is not None]
    best = min(ranked, key=lambda row: row["nll_per_token"], default=None)
    about = listed(_told(limit, value) for limit, value in most.items())
    notes = [f"best at {about}: {_sentence(best, ranked, baseline, label)}"]
    left: dict[str, list[str]] = {}
    for row in table.rows:
        if id(row) not in kept:
            unknown = any(limit.cost.of(row) is None for limit in most)
            why = "since what it costs is not known" if unknown else "over budget"
            left.setdefault(why, []).append(row["label"])
    notes += [f"left out, {why}: {listed(labels)}" for why, labels in left.items()]
    if baseline is not None and not keeps(baseline):
        notes.append(f"{label} stands for comparison; it is over budget itself")
    rows = [{**row, "best_at_budget": row is best} for row in table.rows if id(row) in kept]
    columns = [*table.columns, Column("best_at_budget")]
    return replace(table, columns=columns, rows=rows, notes=[*notes, *table.notes])


def on_frontier(table: Table, cost: Cost) -> Table:
    """The ranked rows that no row beats or matches at the same cost or less, cheapest first.

    Args:
        table: a summary table.
        cost: what is spent.
    """
    known = [
        (value, row["nll_per_token"], row)
        for row in table.rows
        if row["ranked"] and row["nll_per_token"] is not None
        if (value := cost.of(row)) is not None
    ]
    rows = [known[place][2] for place in front([(cost, loss) for cost, loss, _ in known])]
    left = [row["label"] for row in table.rows if not any(row is other for other in rows)]
    notes = [f"frontier in {cost.name}: no row that costs as much or less is better"]
    notes += [f"left out, beaten or not ranked: {listed(left)}"] if left else []
    return replace(table, rows=rows, notes=[*notes, *table.notes])


def _most(limit: Limit, table: Table, baseline: Values | None, label: str) -> float:
    if not limit.relative:
        return limit.amount
    name, unit = limit.cost.name, _EXAMPLES[limit.cost.name].split(" or ")[1].split(",")[0]
    cost = None if baseline is None else limit.cost.of(baseline)
    if cost is None:
        raise UsageError(
            f"{OPTION} '{limit.text}': the {name} of {label} is not known in {table.title}; name "
            f"an amount such as {unit}."
        )
    if cost == 0:
        raise UsageError(
            f"{OPTION} '{limit.text}': {label} has no {name} to multiply; name an amount such as "
            f"{unit}."
        )
    return limit.amount * cost


def _told(limit: Limit, most: float) -> str:
    return f"{limit.text} ({limit.cost.text(most)})" if limit.relative else limit.text


def _sentence(
    best: Values | None, ranked: Sequence[Values], baseline: Values | None, label: str
) -> str:
    if best is None:
        return "no row that may be ranked"
    if best is baseline:
        return f"{best['label']}, the baseline itself; nothing within the budget is better"
    text = str(best["label"])
    if best["delta_nats_per_token"] is not None:
        text += f", Δ {delta_text(best).replace(BREAK, '')} nats/token vs {label}"
        low, high = best["delta_ci95_low"], best["delta_ci95_high"]
        if low is None:
            text += " (no interval)"
        elif low <= 0 <= high:
            text += ", which is not told apart from 0"
    alike = [
        row["label"]
        for row in ranked
        if row is not best and row["tier"] is not None and row["tier"] == best["tier"]
    ]
    return f"{text}; in the same tier: {listed(alike)}" if alike else text
