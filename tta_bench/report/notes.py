"""The tables of a report beside the summary: validity, and what the runs are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tta_bench.format import DASH, listed, si
from tta_bench.store.jsonable import leaves
from tta_bench.tables.table import Column, Table, Values

if TYPE_CHECKING:
    from tta_bench.store import Run

VALIDITY_NOTE = (
    "Before a method reads a document, `eval` probes it on a tiny random model: causality, "
    "normalisation, reset, independence of lanes and more; `tta-bench check METHOD` runs all "
    "probes. A run made before this was stored is not judged."
)


def validity_table(runs: Sequence[Run]) -> Table:
    """What the probes and the FLOP counter said of each run."""
    rows = [
        {
            "method": run.spec,
            "status": run.status,
            "valid": run.summary.get("valid"),
            "rules_broken": run.summary.get("rules_broken") or [],
            **_checked(run),
            "flops_agree": run.summary.get("flops_agree"),
            "source_sha256": run.manifest["method"].get("source_sha256"),
        }
        for run in runs
    ]
    columns = [
        Column("method", "method", left=True),
        Column("status", "run", left=True),
        Column("valid", "probes", show=_verdict, left=True),
        Column("flops_agree", "FLOPs of a step, formula / counter", show=_agreement, left=True),
        Column(
            "source_sha256",
            "source",
            show=lambda row: (row["source_sha256"] or DASH)[:12],
            left=True,
        ),
    ]
    return Table("Validity", columns, rows, [VALIDITY_NOTE])


def manifest_table(runs: Sequence[Run]) -> Table:
    """The fields that all manifests of the runs share, one row each."""
    first, *others = [leaves(run.manifest) for run in runs]
    rows = [
        {
            "field": name,
            "value": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        }
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    ]
    columns = [Column("field", "field", left=True), Column("value", "value", left=True)]
    return Table("What the runs share", columns, rows)


def manifest_text(run: Run) -> str:
    """The whole manifest, for people to read."""
    return json.dumps(run.manifest, indent=2, ensure_ascii=False)


def _checked(run: Run) -> dict[str, Any]:
    """FLOPs of the widest step, by formula and as counted (with what no counter sees)."""
    check = run.summary.get("flops_check") or {}
    seen = check.get("counted")
    return {
        "step_tokens": check.get("scored"),
        "step_flops": check.get("analytic"),
        "step_flops_counted": None if seen is None else seen + (check.get("invisible") or 0),
    }


def _verdict(row: Values) -> str:
    if row["valid"] is None:
        return "not judged"
    return "passed" if row["valid"] else f"NOT VALID: {listed(row['rules_broken'])}"


def _agreement(row: Values) -> str:
    both = f"{si(row['step_flops'])} / {si(row['step_flops_counted'])}"
    if row["flops_agree"] is None:
        return f"{both}, not compared"
    return f"{both}, {'agree' if row['flops_agree'] else 'DISAGREE'}"
