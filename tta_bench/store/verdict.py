"""The verdict in a run's summary: whether its numbers may be believed, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tta_bench.format import listed

if TYPE_CHECKING:
    from tta_bench.store.run import Run

NEVER_JUDGED = "it was made before runs were judged"


def valid_of(run: Run) -> bool | None:
    """Whether probes and audit passed; None where they did not judge the run."""
    valid = run.summary.get("valid")
    return valid if isinstance(valid, bool) else None


def valid_reason_of(run: Run) -> str | None:
    """Why the run is not valid, or not known to be; None if it is valid or has not ended."""
    if valid_of(run) or not run.summary:
        return None
    reason = run.summary.get("valid_reason")
    if isinstance(reason, str) and reason:
        return reason
    broken = rules_broken_of(run)
    if broken:
        return f"it fails at {listed(broken)}"
    if "valid" in run.summary:
        return "the probes could not judge it"
    # A run is judged at its end.
    return NEVER_JUDGED if run.status == "complete" else f"it ended early: {run.status}"


def rules_broken_of(run: Run) -> list[str]:
    """The names of the probes and checks of the audit that failed."""
    broken = run.summary.get("rules_broken")
    return list(map(str, broken)) if isinstance(broken, list) else []


def audit_of(run: Run) -> Mapping[str, Any] | None:
    """What the audit found; None where there was none."""
    audit = run.summary.get("audit")
    return audit if isinstance(audit, dict) else None


def findings_of(run: Run) -> list[Mapping[str, Any]]:
    """The findings of the audit, each with `check`, `status`, `value` and `sentence`."""
    findings = (audit_of(run) or {}).get("findings")
    known = findings if isinstance(findings, list) else []
    return [finding for finding in known if isinstance(finding, dict)]


def before_audits(run: Run) -> bool:
    """Whether the run was made by a version that audited no runs; its verdict still stands."""
    return bool(run.summary) and "audit" not in run.summary
