"""The audit of a run, from its measurement and from what is stored of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.audit.audit import Subject, audit, audit_mode
from tta_bench.engine.lanes import give_back
from tta_bench.store import load_run

if TYPE_CHECKING:
    from tta_bench.audit.finding import AuditReport
    from tta_bench.audit.frozen import FrozenModel
    from tta_bench.evaluation.measure import Measurement


def audit_run(
    measurement: Measurement, summary: dict[str, Any], path: Path, frozen: FrozenModel
) -> AuditReport:
    """Audits a run whose documents are stored; with the audit off, the shared model alone.

    Args:
        measurement: it is over.
        summary: what it gave.
        path: the run's folder.
        frozen: the shared model, taken down before the measurement.
    """
    setting = measurement.setting
    mode = audit_mode(setting.spec.audit)
    give_back(setting.model.device)
    if measurement.setup.host is not None:
        measurement.setup.host.close()  # what it remembers must not reach a second reading
        if mode != "off":
            measurement.setup.host.start()  # as with the model, loading it is nobody's time
    stored = load_run(path)
    rows = {row.index: row for row in stored.rows if row.status == "done"}
    subject = Subject(
        measurement.setup,
        {index: setting.documents[index] for index in rows},
        lambda index: stored.nll(rows[index]),
        sum(row.seconds for row in rows.values()),
        (summary.get("flops_check") or {}).get("counted"),
    )
    return audit(subject, frozen, mode, setting.spec.seed)
