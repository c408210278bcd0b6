"""The audit of a run: as it ends, or of one that has been stored for long."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.audit.audit import Mode, Subject, audit
from tta_bench.audit.frozen import FrozenModel
from tta_bench.engine.lanes import give_back
from tta_bench.engine.loop import MIN_TOKENS
from tta_bench.errors import BenchError, UsageError
from tta_bench.evaluation.measure import trial_setup
from tta_bench.evaluation.verdict import Verdict, judge
from tta_bench.store import amend_summary, load_run

if TYPE_CHECKING:
    from tta_bench.audit.finding import AuditReport
    from tta_bench.engine.trial import TrialSetup
    from tta_bench.evaluation.rerun import Rerunner
    from tta_bench.evaluation.setting import Setting
    from tta_bench.store import Run


def frozen_model(setting: Setting) -> FrozenModel:
    """The setting's model as it is now, with the first document that is long enough to be read."""
    ids = (document.token_ids for document in setting.documents)
    return FrozenModel(setting.model, next(found for found in ids if len(found) >= MIN_TOKENS))


def audit_run(
    setup: TrialSetup,
    setting: Setting,
    summary: Mapping[str, Any],
    path: Path,
    frozen: FrozenModel,
    mode: Mode,
) -> AuditReport:
    """Audits a run whose documents are stored.

    Args:
        setup: what the trials of the run were made of.
        setting: model and documents of the run.
        summary: what its measurement gave.
        path: the run's folder.
        frozen: the shared model, taken down before the method ran.
        mode: how thoroughly; `off` looks at the shared model alone.
    """
    give_back(setting.model.device)
    if setup.host is not None:
        setup.host.close()  # what it remembers must not reach a second reading
        if mode != "off":
            setup.host.start()  # as with the model, loading it is nobody's time
    stored = load_run(path)
    rows = {row.index: row for row in stored.rows if row.status == "done"}
    subject = Subject(
        setup,
        {index: setting.documents[index] for index in rows},
        lambda index: stored.nll(rows[index]),
        sum(row.seconds for row in rows.values()),
        (summary.get("flops_check") or {}).get("counted"),
        summary.get("lanes") or 1,
        summary.get("lanes") == 1 and not summary.get("compiled"),
    )
    return audit(subject, frozen, mode, setting.spec.seed)


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
