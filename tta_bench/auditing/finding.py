"""What an audit found: one line for each check, and the verdict on the run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: future, again, nothing to learn, costs, leak, frozen.
        status: pass, fail, or skip where it could not be judged.
        value: the measured number, in the unit that the sentence names; None if there is none.
        sentence: what was compared, or what went wrong.
    """

    check: str
    status: Status
    value: float | None
    sentence: str


@dataclass(frozen=True)
class AuditReport:
    """The findings on one run.

    Attributes:
        findings: one for each check, in the order in which they ran.
        seconds: the time that the audit took.
        share: that time over the time of the method's own run; None if nothing was timed.
    """

    findings: tuple[Finding, ...]
    seconds: float
    share: float | None

    @property
    def valid(self) -> bool | None:
        """False if a check failed, None if one could not be judged, True if all passed."""
        statuses = [finding.status for finding in self.findings]
        if "fail" in statuses:
            return False
        return True if statuses and "skip" not in statuses else None

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(f.check for f in self.findings if f.status == "fail")

    @property
    def reason(self) -> str | None:
        """The first sentence that says why the run is not valid; None if it is."""
        for status in ("fail", "skip"):
            for finding in self.findings:
                if finding.status == status:
                    return f"{finding.check}: {finding.sentence}"
        return None

    @property
    def spoiled(self) -> str | None:
        """What the method left changed in the shared model or the process; None if nothing."""
        for finding in self.findings:
            if finding.check == "frozen" and finding.status == "fail":
                return finding.sentence
        return None

    def to_dict(self) -> dict[str, Any]:
        """The report in the types of JSON, for the summary of a run."""
        return {
            "valid": self.valid,
            "seconds": round(self.seconds, 3),
            "share": None if self.share is None else round(self.share, 4),
            "findings": [_finite(asdict(finding)) for finding in self.findings],
        }


def _finite(finding: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity; the sentence still says it."""
    value = finding["value"]
    return finding if value is None or math.isfinite(value) else {**finding, "value": None}
