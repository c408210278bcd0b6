"""The audit of a run that has been stored for long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.auditing.audit import Mode
from tta_bench.errors import BenchError, UsageError
from tta_bench.evaluation.audited import audit_run, frozen_model
from tta_bench.evaluation.measure import trial_setup
from tta_bench.evaluation.verdict import Verdict, judge
from tta_bench.store import amend_summary

if TYPE_CHECKING:
    from tta_bench.evaluation.rerun import Rerunner
    from tta_bench.store import Run


def audit_stored(stored: Run, rerunner: Rerunner, mode: Mode) -> Verdict:
    """Audits a run that is there, and stores the verdict with it.

    Raises:
        UsageError: the run is not finished, has no losses of single tokens, or its method is not
            known here.
        BenchError: its model or documents cannot be had, or it cannot be written.
    """
    if not stored.summary:
        raise UsageError(f"{stored.path} is not finished; run the same command again, then audit.")
    for row in stored.rows:
        if row.status == "done":
            try:
                stored.nll(row)
            except BenchError as error:
                raise UsageError(f"{stored.path} cannot be audited: {error}") from error
    with rerunner.opened(stored) as (setting, choice):
        frozen = frozen_model(setting)
        report = audit_run(
            trial_setup(setting, choice), setting, stored.summary, stored.path, frozen, mode
        )
        if report.spoiled:
            frozen.process.restore()
            rerunner.forget_model()
        verdict = judge(choice, report)
    amend_summary(stored.path, verdict.to_dict())
    return verdict
