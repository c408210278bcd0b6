"""The tables of a report beside the summary: validity, and what the runs are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tta_bench.format import DASH, duration, fixed, listed, si
from tta_bench.store.jsonable import leaves
from tta_bench.store.verdict import (
    audit_of,
    before_audits,
    findings_of,
    rules_broken_of,
    valid_of,
    valid_reason_of,
)
from tta_bench.tables.column import Column, Values
from tta_bench.tables.ranking import standing_of
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Run

VALIDITY_NOTE = (
    "Before a method reads a document, `eval` probes it on a tiny random model: causality, "
    "normalisation, reset, independence of lanes and more; `tta-bench check METHOD` runs all "
    "probes. Afterwards it audits the run on the model and documents themselves. Only a run that "
    "passes both is ranked."
)
_FINDING = ("check", "status", "sentence", "value")
UNAUDITED = "made before runs were audited"


def validity_table(runs: Sequence[Run]) -> Table:
    """What the probes, the audit and the FLOP counter said of each run."""
    rows = [
        {
            "method": run.spec,
            "status": run.status,
            "valid": valid_of(run),
            "valid_reason": valid_reason_of(run),
            "rules_broken": rules_broken_of(run),
            "not_ranked": standing_of(run).text,
            "probes": _probes(run),
            "audit": _audit(run),
            "audit_cost": _audit_cost(run),
            **_checked(run),
            "flops_agree": run.summary.get("flops_agree"),
            "source_sha256": run.manifest["method"].get("source_sha256"),
        }
        for run in runs
    ]
    columns = [
        Column("method", "method", left=True),
        Column("status", "run", left=True),
        Column("valid", "verdict", show=_verdict, left=True),
        Column("probes", "probes", left=True),
        Column("audit", "audit", left=True),
        Column("audit_cost", "cost of the audit", left=True),
        Column("valid_reason", "why", show=lambda row: row["valid_reason"] or "", left=True),
        Column("flops_agree", "FLOPs of a step, formula / counter", show=_agreement, left=True),
        Column(
            "source_sha256",
            "source",
            show=lambda row: (row["source_sha256"] or DASH)[:12],
            left=True,
        ),
    ]
    return Table("Validity", columns, rows, [VALIDITY_NOTE])


def audit_table(runs: Sequence[Run]) -> Table | None:
    """Every finding of the audits, in its own sentence; None if no run was audited."""
    rows = [
        {"method": run.spec, **{name: finding.get(name) for name in _FINDING}}
        for run in runs
        for finding in findings_of(run)
    ]
    columns = [
        Column("method", "method", left=True),
        Column("check", "check", left=True),
        Column("status", "outcome", left=True),
        Column("sentence", "what was found", left=True),
        Column("value"),
    ]
    return Table("What the audit found", columns, rows) if rows else None


def manifest_table(runs: Sequence[Run]) -> Table:
    """The fields that all manifests of the runs share, one row each."""
    # How values were chosen has a chapter of its own.
    first, *others = [leaves({**run.manifest, "tuning": {}}) for run in runs]
    rows = [
        {
            "field": name,
            "value": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        }
        for name, value in first.items()
        if name != "tuning" and all(name in other and other[name] == value for other in others)
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
        return "not known"
    if row["valid"]:
        return "passed"
    return f"NOT VALID: {listed(row['rules_broken'])}" if row["rules_broken"] else "NOT VALID"


def _probes(run: Run) -> str:
    """Which probes on tiny models failed, apart from the checks of the audit."""
    failed = _names(run, "fail")
    broken = [name for name in rules_broken_of(run) if name not in failed]
    if broken:
        return f"failed: {listed(broken)}"
    return "passed" if valid_of(run) is not None else DASH


def _audit(run: Run) -> str:
    if not run.summary:
        return DASH
    if audit_of(run) is None:
        return UNAUDITED if before_audits(run) else "not audited"
    failed, skipped = _names(run, "fail"), _names(run, "skip")
    if failed:
        return f"failed: {listed(failed)}"
    return f"could not judge: {listed(skipped)}" if skipped else "passed"


def _names(run: Run, status: str) -> list[str]:
    return [str(one.get("check")) for one in findings_of(run) if one.get("status") == status]


def _audit_cost(run: Run) -> str:
    """`0:04, 6.1 % of the run`."""
    audit = audit_of(run) or {}
    seconds, share = audit.get("seconds"), audit.get("share")
    if not isinstance(seconds, (int, float)):
        return DASH
    took = duration(seconds) if seconds >= 60 else f"{fixed(seconds, 1)} s"
    if not isinstance(share, (int, float)):
        return took
    return f"{took}, {fixed(100 * share, 1)} % of the run"


def _agreement(row: Values) -> str:
    both = f"{si(row['step_flops'])} / {si(row['step_flops_counted'])}"
    if row["flops_agree"] is None:
        return f"{both}, not compared"
    return f"{both}, {'agree' if row['flops_agree'] else 'DISAGREE'}"
