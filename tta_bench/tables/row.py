"""The row of a run in a summary table: what the run is of, and the value of every metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tta_bench.errors import MetricError
from tta_bench.format import DASH
from tta_bench.metrics import Metric, available
from tta_bench.metrics.cost import COST
from tta_bench.metrics.difference import difference_of
from tta_bench.metrics.quality import quality_of
from tta_bench.store.tuning import tuning_of
from tta_bench.store.verdict import valid_of, valid_reason_of
from tta_bench.tables.documents import document_row
from tta_bench.tables.labels import labels_of
from tta_bench.tables.later import Later, all_made
from tta_bench.tables.notes import partial_reasons
from tta_bench.tables.ranking import missing_documents, missing_reason, standing_of
from tta_bench.tables.settings import BASELINE, baseline_label, baseline_of, by_setting
from tta_bench.tables.tuned import tuned_text

if TYPE_CHECKING:
    from tta_bench.store import Run


def summary_rows(runs: Sequence[Run], metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per run as JSON-able values, in the order of the runs; what is not known is None.

    Args:
        runs: stored runs, of one or several settings.
        metrics: names of metrics that are there when they are asked for.
    """
    return [all_made(row) for row in run_rows(runs, metrics)]


def run_rows(runs: Sequence[Run], metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """`summary_rows` in which the rows of documents are made later (`tta_bench.tables.later`).

    A run is compared with the run of `none` that has the same setting.

    Args:
        runs: stored runs, of one or several settings.
        metrics: names of metrics that are there when they are asked for.
    """
    rows = {
        id(run): row
        for group in by_setting(runs)
        for run, row in zip(group, rows_of_setting(group, BASELINE, metrics), strict=True)
    }
    return [rows[id(run)] for run in runs]


def rows_of_setting(
    group: Sequence[Run], baseline: str, metrics: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of runs of one setting.

    Args:
        group: runs of one setting.
        baseline: name or spec of the method that the others are compared with.
        metrics: names of metrics that are there when they are asked for.
    """
    other, frozen = baseline_of(group, baseline), baseline_of(group)
    missing = missing_documents(group)
    every, called = available(metrics).values(), baseline_label(group, baseline)
    rows = [
        _row(run, other, frozen, called, lacks, every)
        for run, lacks in zip(group, missing, strict=True)
    ]
    specs = [run.spec for run in group]
    for run, row, label in zip(group, rows, labels_of(specs), strict=True):
        same = specs.count(run.spec) > 1  # other seeds, or another version of the same plugin
        key = f" ({run.manifest['key'].split('-')[-1][:8]})" if same else ""
        row["label"] = label + key
    return rows


def metric_values(
    metrics: Iterable[Metric],
    run: Run,
    baseline: Run | None,
    frozen: Run | None,
    missing: int = 0,
) -> dict[str, float | None]:
    """The values of metrics by name.

    Args:
        metrics: what to compute.
        run: the run, or a part of its documents.
        baseline: the run that it is compared with.
        frozen: the run of `none`.
        missing: documents that the run lacks (`missing_documents`); then only costs are known,
            for all else would be of other documents than in the other rows.
    """
    values: dict[str, float | None] = {}
    for metric in metrics:
        known = not missing or metric in COST
        other = frozen if metric.against == "none" else baseline
        values[metric.name] = metric.of(run, other) if known else None
    return values


def _row(
    run: Run,
    baseline: Run | None,
    frozen: Run | None,
    name: str,
    missing: int,
    metrics: Iterable[Metric],
) -> dict[str, Any]:
    facts = _facts(run, baseline, name, missing)
    values = metric_values(metrics, run, baseline, frozen, missing)
    clash = min(facts.keys() & values.keys(), default=None)
    if clash is not None:
        raise MetricError(f"the metric '{clash}' has the name of a field of every row; rename it.")
    return facts | values


def _facts(run: Run, baseline: Run | None, name: str, missing: int) -> dict[str, Any]:
    """What the row is of, and what must be known to judge its metrics."""
    manifest = run.manifest
    quality = quality_of(run)
    partial = partial_reasons(run)
    standing = standing_of(run, missing)
    return {
        "method": run.spec,
        "name": run.method,
        "status": run.status,
        "reason": run.summary.get("reason"),
        "partial": bool(partial),
        "partial_reasons": partial,
        "ranked": standing.ranked,
        "not_ranked": standing.text,
        "marks": standing.marks,
        "valid": valid_of(run),
        "valid_reason": valid_reason_of(run),
        "random_weights": bool(manifest["model"].get("random_weights")),
        "model": manifest["model"].get("name"),
        "dataset": manifest["dataset"].get("spec"),
        "dtype": manifest.get("dtype"),
        "device": run.device or DASH,
        "protocol": manifest["protocol"],
        "lanes": run.lanes,
        "documents_done": quality.documents if quality else 0,
        "documents_distinct": run.done.distinct,
        "documents_missing": missing,
        "tokens": quality.tokens if quality else 0,
        "bytes": quality.bytes or None if quality else 0,
        "words": quality.words or None if quality else 0,
        "nll": quality.nll if quality else None,
        **_pairing(run, baseline, name, missing),
        "tuning": _tuning(run),
        "flops_agree": run.summary.get("flops_agree"),
        "flops_note": run.summary.get("flops_note"),
        "key": manifest["key"],
        "run": run.path.as_posix(),
        "documents": Later(document_row, run.rows),
    }


def _tuning(run: Run) -> dict[str, Any] | None:
    """How the row's values were chosen, with a sentence; None where they were not tuned."""
    tuning = tuning_of(run.manifest)
    return None if tuning is None else {"text": tuned_text(tuning), **tuning.to_dict()}


def _pairing(run: Run, baseline: Run | None, name: str, missing: int) -> dict[str, Any]:
    """On which documents a run is compared with its baseline, or why it is not."""
    pair = difference_of(run, baseline)
    if pair is not None and pair.delta is not None and missing:
        done = len(run.done.keys)
        pair = replace(pair, interval=None, reason=missing_reason(done, missing))
    alone = "the baseline" if baseline else f"no run of {name} to compare with"
    return {
        "delta_ci95": _interval(pair.interval if pair else None),
        "delta_documents": pair.documents if pair else None,
        "delta_unpaired_documents": pair.unpaired if pair else None,
        "perplexity_ratio_ci95": _interval(pair.ratio_interval if pair else None),
        "delta_reason": pair.reason if pair else alone,
    }


def _interval(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else list(ends)
