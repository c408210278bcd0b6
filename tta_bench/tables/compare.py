"""Tables of `compare`: the summary with tests and tiers, slices, and what two runs differ in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from tta_bench.errors import UsageError
from tta_bench.statistics import (
    BOOTSTRAP_DOCUMENTS,
    EXACT_DOCUMENTS,
    bootstrap_interval,
    holm,
    paired_difference,
    quality,
    sign_flip_p,
    tiers,
)
from tta_bench.store.jsonable import leaves
from tta_bench.store.key import setting
from tta_bench.tables.format import DASH, count, fixed, plural
from tta_bench.tables.notes import protocol_note
from tta_bench.tables.summary import BASELINE, baseline_of, comparable, summary_tables, titles_of
from tta_bench.tables.table import BREAK, Column, Table, Values

if TYPE_CHECKING:
    from tta_bench.store import Row, Run

Slice = Literal["domain", "dataset", "document"]
NO_DOMAIN = "(top)"
TIER_NOTE = (
    "tier: every pair of ranked rows is tested (paired t over documents, p by Holm over all pairs "
    "of the table); from the best row down, a row told apart at 5 % from the first row of a tier "
    "opens the next"
)
_UNCHANGING = ("key", "created", "command", "config")


def compare_tables(
    runs: Sequence[Run], baseline: str = BASELINE, sort: str | None = None
) -> list[Table]:
    """The summary tables with ratio of perplexities, p and tier; what is not comparable is apart.

    Args:
        baseline: name or spec of the method that the others are compared with.
        sort: key or heading of the column to sort by, the best first.

    Raises:
        UsageError: no run is of the baseline, or no column is called `sort`.
    """
    check_baseline(runs, baseline)
    tables = summary_tables(runs, baseline)
    groups = comparable(runs)
    whole = [_tested(table, group, baseline) for table, group in zip(tables, groups, strict=True)]
    return [_sorted(table, sort) for table in whole] if sort else whole


def check_baseline(runs: Sequence[Run], baseline: str) -> None:
    """Refuses a baseline that none of the runs is of; `none` may be missing.

    Raises:
        UsageError: there is no such run.
    """
    if baseline != BASELINE and baseline_of(runs, baseline) is None:
        known = ", ".join(dict.fromkeys(run.spec for run in runs))
        raise UsageError(
            f"--baseline '{baseline}' is none of the runs' methods; there are {known}."
        )


def _tested(table: Table, group: Sequence[Run], baseline: str) -> Table:
    other = baseline_of(group, baseline)
    rows = [dict(row) for row in table.rows]
    for run, row in zip(group, rows, strict=True):
        row |= _tests(run, other)
    adjusted = holm([row["p_sign_flip"] for row in rows])
    losses = [row["nll"] / row["tokens"] if row["ranked"] else None for row in rows]
    levels = tiers(losses, lambda i, j: paired_difference(group[i].rows, group[j].rows).p_t)
    for row, p, tier in zip(rows, adjusted, levels, strict=True):
        row["p_holm"], row["tier"] = p, tier
    place = next(i for i, c in enumerate(table.columns) if c.key == "delta_nats_per_token") + 1
    columns = [*table.columns[:place], *_TEST_COLUMNS, *table.columns[place:]]
    return replace(table, columns=columns, rows=rows, notes=_with_notes(table.notes, rows))


def _tests(run: Run, baseline: Run | None) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(column.key for column in _TEST_COLUMNS)
    if baseline is None or run is baseline:
        return values
    pair = paired_difference(run.rows, baseline.rows)
    low, high = pair.ratio_interval or (None, None)
    values |= {
        "perplexity_ratio": pair.ratio,
        "perplexity_ratio_ci95_low": low,
        "perplexity_ratio_ci95_high": high,
        "p_sign_flip": sign_flip_p(pair.sums),
    }
    between = bootstrap_interval(pair.sums, pair.sizes)
    if between is not None:
        values["delta_bootstrap_ci95_low"], values["delta_bootstrap_ci95_high"] = between
    # JSON has no infinity, and a ratio beyond floats is one.
    return {name: v if v is None or math.isfinite(v) else None for name, v in values.items()}


def _with_notes(notes: Sequence[str], rows: Sequence[Values]) -> list[str]:
    added = []
    tested = [row["delta_documents"] for row in rows if row["p_sign_flip"] is not None]
    if tested:
        few, many = min(tested), max(tested)
        how = "all patterns" if many <= EXACT_DOCUMENTS else "10,000 random patterns, seed 0"
        least = f", at least {2.0 ** (1 - few):.2g} before it" if few <= EXACT_DOCUMENTS else ""
        added.append(f"p: sign flips over documents ({how}), Holm over the methods{least}")
        if many >= BOOTSTRAP_DOCUMENTS:
            added.append("csv, json and parquet hold a bootstrap interval of Δ, too (seed 0)")
    if any(row["tier"] for row in rows):
        added.append(TIER_NOTE)
    return [*notes[:2], *added, *notes[2:]]


def _sorted(table: Table, name: str) -> Table:
    column = _column(table, name)

    def order(row: Values) -> tuple[bool, Any]:
        value = row.get(column.key)
        if isinstance(value, (dict, list)):
            value = json.dumps(value, sort_keys=True)
        return value is None, 0 if value is None else value

    known = [row for row in table.rows if row.get(column.key) is not None]
    unknown = [row for row in table.rows if row.get(column.key) is None]
    falling = column.key == "tokens_per_second"
    return replace(table, rows=[*sorted(known, key=order, reverse=falling), *unknown])


def _column(table: Table, name: str) -> Column:
    wanted = name.strip().lower()
    for column in table.columns:
        title = column.title.replace(BREAK, "").lower()
        if wanted in (column.key.lower(), title):
            return column
    known = ", ".join(column.key for column in table.columns)
    raise UsageError(f"--sort '{name}' is no column; there are {known}.")


def slice_tables(
    runs: Sequence[Run], by: Slice, baseline: str = BASELINE, sort: str | None = None
) -> list[Table]:
    """One row for each slice and method; intervals are over the documents of the slice.

    A table holds what is comparable; `dataset` lays side by side what differs in documents alone.

    Args:
        by: `domain` is the first part of a document's key, up to its first slash.

    Raises:
        UsageError: no run is of the baseline, or no column is called `sort`.
    """
    check_baseline(runs, baseline)
    groups = comparable(runs)
    titles = titles_of(groups)
    if by == "dataset":
        tables = _dataset_tables(groups, baseline)
    else:
        tables = []
        for group, title in zip(groups, titles, strict=True):
            rows = _slices(group, _key_of[by], baseline)
            notes = [f"protocol: {protocol_note(group)}", *_slice_notes(rows, by)]
            tables.append(Table(f"{title} · by {by}", _slice_columns(by, baseline), rows, notes))
    return [_sorted(table, sort) for table in tables] if sort else tables


def _dataset_tables(groups: Sequence[Sequence[Run]], baseline: str) -> list[Table]:
    alike: dict[str, list[Sequence[Run]]] = {}
    for group in groups:
        parts = {k: v for k, v in setting(group[0].manifest).items() if k != "dataset"}
        where = [parts, protocol_note(group[:1]).split(", ")[-1]]
        alike.setdefault(json.dumps(where, sort_keys=True), []).append(group)
    tables = []
    for several in alike.values():
        names = [str(group[0].manifest["dataset"].get("spec")) for group in several]
        rows = []
        for group, name in zip(several, names, strict=True):
            mark = str(group[0].manifest["dataset"].get("fingerprint"))[:8]
            label = f"{name} ({mark})" if names.count(name) > 1 else name
            rows += _slices(group, _always(label), baseline)
        notes = [f"protocol: {protocol_note(several[0])}", *_slice_notes(rows, "dataset")]
        title = f"{several[0][0].manifest['model'].get('name')} · by dataset"
        tables.append(Table(title, _slice_columns("dataset", baseline), rows, notes))
    return tables


def _always(label: str) -> Callable[[Row], str]:
    return lambda row: label


def _domain(row: Row) -> str:
    first, slash, _ = row.key.partition("/")
    return first if slash and first else NO_DOMAIN


_key_of: Mapping[str, Callable[[Row], str]] = {"document": lambda row: row.key, "domain": _domain}


def _slices(
    group: Sequence[Run], name_of: Callable[[Row], str], baseline: str
) -> list[dict[str, Any]]:
    other = baseline_of(group, baseline)
    names = dict.fromkeys(name_of(row) for run in group for row in run.rows)
    rows = []
    for name in names:
        of_baseline = [row for row in other.rows if name_of(row) == name] if other else []
        for run in group:
            mine = [row for row in run.rows if name_of(row) == name]
            pair = paired_difference(mine, of_baseline) if other and run is not other else None
            figures = quality(mine)
            low, high = (pair.interval if pair else None) or (None, None)
            rows.append(
                {
                    "slice": name,
                    "method": run.spec,
                    "documents_done": figures.documents if figures else 0,
                    "tokens": figures.tokens if figures else 0,
                    "nll_per_token": figures.nll / figures.tokens if figures else None,
                    "bits_per_byte": figures.bits_per_byte if figures else None,
                    "delta_nats_per_token": pair.delta if pair else None,
                    "delta_ci95_low": low,
                    "delta_ci95_high": high,
                    "run": run.path.as_posix(),
                }
            )
    return rows


def _slice_notes(rows: Sequence[Values], by: str) -> list[str]:
    notes = []
    if any(row["delta_ci95_low"] is not None for row in rows):
        notes.append("Δ: paired over the slice's documents; ± is its 95 % interval")
    if by != "document" and any(row["documents_done"] == 1 for row in rows):
        notes.append("a slice of one document has no between-document inference")
    return notes


def _half(row: Values) -> str:
    text = fixed(row["delta_nats_per_token"], 4, "+")
    if row["delta_ci95_low"] is None:
        return text
    return f"{text} {BREAK}±{fixed((row['delta_ci95_high'] - row['delta_ci95_low']) / 2, 4)}"


def _slice_columns(by: str, baseline: str) -> list[Column]:
    return [
        Column("slice", by, left=True),
        Column("method", "method", left=True),
        Column("documents_done", "documents", show=lambda row: count(row["documents_done"])),
        Column("tokens", "tokens", show=lambda row: count(row["tokens"])),
        Column("nll_per_token", "nats/token", show=lambda row: fixed(row["nll_per_token"], 4)),
        Column("bits_per_byte", "bits/byte", show=lambda row: fixed(row["bits_per_byte"], 4)),
        Column("delta_nats_per_token", f"Δ nats/token vs {baseline}", show=_half),
        Column("delta_ci95_low"),
        Column("delta_ci95_high"),
        Column("run"),
    ]


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
        Column("first", "first", left=True),
        Column("second", "second", left=True),
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
                "first": a.nll / a.tokens if a and a.nll is not None and a.tokens else None,
                "second": b.nll / b.tokens if b and b.nll is not None and b.tokens else None,
                "change": pair.delta,
                "reason": pair.reason if pair.delta is None else None,
            }
        )
    whole = paired_difference(second.rows, first.rows)
    notes = [f"not compared: {whole.reason}"]
    if whole.delta is not None:
        half = "" if whole.interval is None else f" ±{fixed(whole.interval[1] - whole.delta, 4)}"
        p = sign_flip_p(whole.sums)
        notes = [
            f"second minus first: {fixed(whole.delta, 4, '+')}{half} nats/token over "
            f"{plural(whole.documents, 'document')}, p {_p_text(p)} (sign flips over documents)"
            + (f"; {whole.reason}" if whole.reason else ""),
            f"perplexity x {fixed(whole.ratio, 4)}",
        ]
    columns = [
        Column("key", "document", left=True),
        Column("tokens", "tokens", show=lambda row: count(row["tokens"])),
        Column("first", "nats/token first", show=lambda row: fixed(row["first"], 4)),
        Column("second", "second", show=lambda row: fixed(row["second"], 4)),
        Column("change", "change", show=lambda row: fixed(row["change"], 4, "+")),
        Column("reason"),
    ]
    return Table(f"{first.spec}: what changed in each document", columns, rows, notes)


def _p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _ratio_text(row: Values) -> str:
    if row["perplexity_ratio"] is None or row["status"] in ("oom", "diverged", "error"):
        return DASH
    low, high = row["perplexity_ratio_ci95_low"], row["perplexity_ratio_ci95_high"]
    between = "" if low is None else f" {BREAK}[{fixed(low, 3)}, {BREAK}{fixed(high, 3)}]"
    return fixed(row["perplexity_ratio"], 3) + between


_TEST_COLUMNS = [
    Column("perplexity_ratio", f"perplexity {BREAK}ratio", show=_ratio_text, narrow=8),
    Column("p_holm", "p", show=lambda row: _p_text(row["p_holm"])),
    Column("tier", "tier", show=lambda row: DASH if row["tier"] is None else str(row["tier"])),
    Column("perplexity_ratio_ci95_low"),
    Column("perplexity_ratio_ci95_high"),
    Column("p_sign_flip"),
    Column("delta_bootstrap_ci95_low"),
    Column("delta_bootstrap_ci95_high"),
]
