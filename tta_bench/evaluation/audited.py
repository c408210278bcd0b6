"""The audit of a run, from what is stored of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.auditing.audit import Mode, Subject, audit
from tta_bench.auditing.frozen import FrozenModel
from tta_bench.engine.lanes import give_back
from tta_bench.engine.loop import MIN_TOKENS
from tta_bench.errors import BenchError
from tta_bench.statistics.best_reader import best_of
from tta_bench.store import load_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tta_bench.auditing.finding import AuditReport
    from tta_bench.engine.trial import TrialSetup
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
    path: Path | None,
    frozen: FrozenModel,
    mode: Mode,
) -> AuditReport:
    """Audits a run whose documents are stored.

    Args:
        setup: what the trials of the run were made of.
        setting: model and documents of the run.
        summary: what its measurement gave.
        path: the run's folder; None where the shared model alone is looked at.
        frozen: the shared model, taken down before the method ran.
        mode: how thoroughly; `off` looks at the shared model alone.
    """
    give_back(setting.model.device)
    if setup.host is not None:
        setup.host.close()  # what it remembers must not reach a second reading
        if mode != "off":
            setup.host.start()  # as with the model, loading it is nobody's time
    stored = None if path is None else load_run(path)
    rows = {row.index: row for row in stored.rows if row.status == "done"} if stored else {}

    def losses(index: int) -> NDArray[np.float32]:
        assert stored is not None
        return stored.nll(rows[index])

    subject = Subject(
        setup,
        {index: setting.documents[index] for index in rows},
        losses,
        sum(row.seconds for row in rows.values()),
        (summary.get("flops_check") or {}).get("counted"),
        summary.get("lanes") or 1,
        summary.get("lanes") == 1 and not summary.get("compiled"),
        None if stored is None else _best(stored),
    )
    return audit(subject, frozen, mode, setting.spec.seed)


def _best(stored: Run) -> dict[int, np.ndarray] | None:
    """The losses of the best reader who must find the alphabet, where they are known."""
    try:
        found = best_of(stored)
    except BenchError:  # tokens are left out in between, and the others have no known place
        return None
    return None if found is None else {index: one.learning for index, one in found.items()}
