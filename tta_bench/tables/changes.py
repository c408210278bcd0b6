"""The tables of `compare` for two runs of one method: what changed from one to the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tta_bench.format import count, fixed, plural
from tta_bench.metrics.difference import difference_of
from tta_bench.statistics import PairedDifference, paired_difference
from tta_bench.store.jsonable import leaves
from tta_bench.tables.column import Column
from tta_bench.tables.compare import p_text
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Run

_UNCHANGING = ("key", "created", "command", "config", "tuning")


def change_tables(first: Run, second: Run) -> list[Table]:
    """What changed from one run to another of the same method: manifests, then documents."""
    labels = (
        f"{first.path.parent.name}/{first.path.name}",
        f"{second.path.parent.name}/{second.path.name}",
    )
    before, after = _fields(first.manifest), _fields(second.manifest)
    fields = [
        {"field": name, "first": before.get(name), "second": after.get(name)}
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
    columns = [
        Column("field", "field", left=True),
        Column("first", "first", left=True, keep=True),
        Column("second", "second", left=True, keep=True),
    ]
    notes = [f"first: {labels[0]}", f"second: {labels[1]}"]
    if not fields:
        notes.append("the manifests agree")
    notes.append(f"left out: {', '.join(_UNCHANGING)}")
    manifests = Table(f"{first.spec}: what changed in the manifest", columns, fields, notes)
    return [manifests, _documents(first, second)]


def _fields(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a manifest by dotted name, without those that differ between any two runs."""
    kept = {name: part for name, part in manifest.items() if name not in _UNCHANGING}
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in leaves(kept).items()
    }


def _documents(first: Run, second: Run) -> Table:
    mine, theirs = ({row.key: row for row in run.rows} for run in (first, second))
    rows = []
    for key in dict.fromkeys([*mine, *theirs]):
        a, b = mine.get(key), theirs.get(key)
        pair = paired_difference([b] if b else [], [a] if a else [])
        rows.append(
            {
                "key": key,
                "tokens": pair.tokens or None,
                "first": a.nll_per_token if a else None,
                "second": b.nll_per_token if b else None,
                "change": pair.delta,
                "reason": pair.reason if pair.delta is None else None,
            }
        )
    columns = [
        Column("key", "document", left=True),
        Column("tokens", "tokens", show=lambda row: count(row["tokens"])),
        Column("first", "nats/token first", show=lambda row: fixed(row["first"], 4)),
        Column("second", "second", show=lambda row: fixed(row["second"], 4)),
        Column("change", "change", show=lambda row: fixed(row["change"], 4, "+"), keep=True),
        Column("reason"),
    ]
    notes = _change_notes(difference_of(second, first))
    return Table(f"{first.spec}: what changed in each document", columns, rows, notes)


def _change_notes(whole: PairedDifference | None) -> list[str]:
    if whole is None:  # a run beside itself
        return []
    if whole.delta is None:
        return [f"not compared: {whole.reason}"]
    tested = whole.interval is not None
    half = f" ±{fixed(whole.interval[1] - whole.delta, 4)}" if whole.interval else ""
    test = f"p {p_text(whole.p_t)} (paired t over documents)" if tested else str(whole.reason)
    both, every = whole.documents, whole.documents + whole.unpaired
    over = f"{both:,} of {every:,} documents" if whole.unpaired else plural(both, "document")
    return [
        f"second minus first: {fixed(whole.delta, 4, '+')}{half} nats/token over {over}, {test}",
        f"perplexity x {fixed(whole.ratio, 4)}",
    ]
