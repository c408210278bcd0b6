"""The verdict on a run: what the probes found on tiny models, and the audit on the run itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tta_bench.evaluation.probed import probed

if TYPE_CHECKING:
    from tta_bench.auditing.finding import AuditReport
    from tta_bench.contract.choice import MethodChoice

NOT_AUDITED = "it was not audited (--audit off)"


@dataclass(frozen=True)
class Verdict:
    """Whether a run's numbers may be believed; only True is ranked.

    Attributes:
        valid: True where probes and audit passed, False where either failed, else None.
        rules_broken: the probes and checks that failed.
        reason: why it is not valid; None if it is.
        audit: the audit's report, or None where there was none.
        probed: how the probes ran the method where that was not as given.
    """

    valid: bool | None
    rules_broken: tuple[str, ...]
    reason: str | None
    audit: AuditReport | None
    probed: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """What the user must be told."""
        if self.valid:
            return []
        word = "NOT VALID" if self.valid is False else "validity unknown"
        return [f"{word}: {self.reason}"]

    def to_dict(self) -> dict[str, Any]:
        """For the summary of a run."""
        return {
            "valid": self.valid,
            "rules_broken": list(self.rules_broken),
            "valid_reason": self.reason,
            "probed": list(self.probed),
            "audit": None if self.audit is None else self.audit.to_dict(),
        }


def judge(choice: MethodChoice, report: AuditReport | None) -> Verdict:
    """The verdict on a method's run.

    Args:
        choice: the method.
        report: the audit's; None where it was switched off.
    """
    probes, broken, why, how = probed(choice)
    broken = (*broken, *(report.failed if report else ()))
    if broken:
        reason = why or (report.reason if report else None)
        return Verdict(False, broken, reason, report, how)
    if report is None:
        return Verdict(None, (), NOT_AUDITED, None, how)
    if report.valid is None:
        return Verdict(None, (), report.reason, report, how)
    if probes is None:
        return Verdict(None, (), why, report, how)
    return Verdict(True, (), None, report, how)
