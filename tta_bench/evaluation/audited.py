"""The audit of a run, from what is stored of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.audit.audit import Mode, Subject, audit
from tta_bench.audit.frozen import FrozenModel
from tta_bench.engine.lanes import give_back
from tta_bench.engine.loop import MIN_TOKENS
from tta_bench.store import load_run

if TYPE_CHECKING:
    from tta_bench.audit.finding import AuditReport
    from tta_bench.engine.trial import TrialSetup
    from tta_bench.evaluation.setting import Setting


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
