"""A trial: the runs of one method on all tuning documents, and whether it can be chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tta_bench.metrics.quality import quality_of
from tta_bench.store import FAILED, Run
from tta_bench.store.tuning import TunedTrial
from tta_bench.store.verdict import valid_of, valid_reason_of


def trial_of(values: Mapping[str, str], runs: Sequence[Run]) -> TunedTrial:
    """The trial that stored runs make.

    Args:
        values: the value of each parameter that is tuned.
        runs: the method's run on each dataset, ended.
    """
    whole = [quality_of(run) for run in runs]
    known = [quality for quality in whole if quality is not None]
    tokens = sum(quality.tokens for quality in known)
    verdicts = [valid_of(run) for run in runs]
    valid = False if False in verdicts else None if None in verdicts else True
    reason = next(filter(None, map(_objection, runs)), None)
    nll = math.fsum(quality.nll for quality in known) / tokens if tokens and not reason else None
    return TunedTrial(
        spec=runs[0].spec,
        values=dict(values),
        nll_per_token=nll,
        valid=valid,
        reason=reason,
        documents=sum(quality.documents for quality in known),
        tokens=tokens,
        flops=_flops(runs),
        runs=tuple(f"{run.path.parent.name}/{run.path.name}" for run in runs),
    )


def _objection(run: Run) -> str | None:
    """Why a run keeps its trial from being chosen."""
    if run.status != "complete":
        return str(run.summary.get("reason") or run.status)
    failed = [row for row in run.rows if row.status in FAILED]
    if failed:
        return f"{failed[0].key}: {failed[0].reason or failed[0].status}"
    if valid_of(run) is not True:
        return valid_reason_of(run)
    return None


def _flops(runs: Sequence[Run]) -> float | None:
    """FLOPs of reading all documents that are done, what was read offline included."""
    total = 0.0
    for run in runs:
        per_token, quality = run.cost("flops_per_token"), quality_of(run)
        if per_token is None or quality is None:
            return None
        total += per_token * quality.tokens + (run.cost("offline_flops") or 0.0)
    return total
