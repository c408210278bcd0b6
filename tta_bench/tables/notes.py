"""The notes under a summary table: documents, protocol, and every reason for doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tta_bench.format import DASH, duration, listed, plural, si
from tta_bench.store.portion import documents_of, portion_of
from tta_bench.store.rows import FAILED
from tta_bench.store.tuning import tuning_of
from tta_bench.tables.labels import labels_of
from tta_bench.tables.ranking import VERDICTS, missing_reason, standing_of
from tta_bench.tables.settings import baseline_label, baseline_of
from tta_bench.tables.tuned import tuned_text

if TYPE_CHECKING:
    from tta_bench.metrics import Metric
    from tta_bench.store import Run

SHOWN_REASONS = 2


def notes_of(
    runs: Sequence[Run], rows: Sequence[Mapping[str, Any]], baseline: str = "none"
) -> list[str]:
    """The notes under the table of one setting.

    Args:
        runs: runs of one setting.
        rows: their summary rows.
        baseline: name or spec of the baseline.
    """
    label = baseline_label(runs, baseline)
    notes = [_documents(rows), f"protocol: {protocol_note(runs)}"]
    if any(row["delta_ci95"] for row in rows):
        equal = ", equal ones as one" if any(map(_has_copies, rows)) else ""
        notes.append(
            f"Δ: paired over documents; ± is its 95 % interval, documents as clusters{equal}"
        )
    if baseline_of(runs, baseline) is None:
        notes.append(f"{label} was not run under this protocol: there is nothing to compare with")
    notes += _grouped(_difference_notes(rows, label), len(rows))
    notes += _grouped(_cost_notes(rows), len(rows))
    notes += _grouped([(text, row["label"]) for text, row in _remarks(runs, rows)], len(rows))
    notes += _tuning_notes(runs, rows)
    notes += _verdict_notes(runs, rows)
    if any(row["marks"] or row["documents_missing"] for row in rows):
        notes.append("rows that are marked or lack documents are not ranked")
    partial = [(reason, row["label"]) for row in rows for reason in row["partial_reasons"]]
    notes += [f"PARTIAL: {note}" for note in _grouped(partial, len(rows))]
    if any(row["random_weights"] for row in rows):
        notes.append(
            "RANDOM WEIGHTS: the model was never trained; these rows show speed and memory "
            "alone and are not ranked"
        )
    return notes


def metric_notes(metrics: Sequence[Metric], runs: Sequence[Run]) -> list[str]:
    """What a reader must know of the metrics that are shown, in runs of one setting."""
    labels = labels_of([run.spec for run in runs])
    found = []
    for metric in metrics:
        pairs = [(metric.note(run), label) for run, label in zip(runs, labels, strict=True)]
        found += _grouped([(text, label) for text, label in pairs if text], len(runs))
    return found


def partial_reasons(run: Run) -> list[str]:
    """Why the run's numbers do not stand for its whole dataset; empty if they do."""
    reasons = []
    if run.summary.get("partial"):
        reasons.append(str(run.summary.get("partial_reason") or "part of the documents"))
    elif "partial" not in run.summary:  # the run stopped before it could say so
        reasons += [run.limits] if run.limits else []
    portion = portion_of(run.manifest)
    if portion is not None:
        reasons.append(f"--shard {portion}")
    expected = documents_of(run.manifest)
    total = max(expected if isinstance(expected, int) else 0, len(run.rows))
    for status in ("skipped", *FAILED):
        rows = [row for row in run.not_done if row.status == status]
        if rows:
            why = list(dict.fromkeys(row.reason or "no reason given" for row in rows))
            more = ["..."] if len(why) > SHOWN_REASONS else []
            shown = "; ".join([*why[:SHOWN_REASONS], *more])
            reasons.append(f"{len(rows):,} of {plural(total, 'document')} {status} ({shown})")
    missing = total - len(run.rows)
    left = f"{missing:,} of {plural(total, 'document')} not read"
    if run.status == "complete":
        return [*reasons, left] if missing else reasons
    reason = str(run.summary.get("reason") or "")
    # `interrupted by the user` says the status itself.
    ended = reason if reason.startswith(run.status) else run.status
    ended += f" ({reason})" if reason and ended != reason else ""
    if missing:
        reasons.append(f"{ended}, {left}")
    elif all(row.status != run.status for row in run.not_done):
        reasons.append(ended)
    return reasons


def _documents(rows: Sequence[Mapping[str, Any]]) -> str:
    most = max(rows, key=lambda row: row["tokens"])
    parts = [plural(most["documents_done"], "document"), plural(most["tokens"], "token")]
    if _has_copies(most):
        parts.insert(1, f"{most['documents_distinct']:,} of them distinct")
    return ", ".join([*parts, plural(most["bytes"], "byte")] if most["bytes"] else parts)


def _has_copies(row: Mapping[str, Any]) -> bool:
    return bool(row["documents_distinct"] < row["documents_done"])


def _verdict_notes(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note for each verdict and reason, with the methods that it is about."""
    found: dict[str, list[tuple[str, str]]] = {}
    for run, row in zip(runs, rows, strict=True):
        for objection in standing_of(run).objections:
            if objection.mark in VERDICTS:
                found.setdefault(objection.mark, []).append((objection.reason, row["label"]))
    return [f"{mark}: {note}" for mark, why in found.items() for note in _grouped(why, len(runs))]


def _tuning_notes(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the values of each row were chosen that were tuned."""
    pairs = [(tuning_of(run.manifest), row["label"]) for run, row in zip(runs, rows, strict=True)]
    return [f"{label}: {tuned_text(tuning)}" for tuning, label in pairs if tuning is not None]


def protocol_note(runs: Sequence[Run]) -> str:
    """How the runs read their documents, and on what."""
    protocol = runs[0].manifest["protocol"]
    parts = [str(protocol.get("name", DASH))]
    if protocol.get("window") is not None:
        parts.append(f"window {protocol['window']}")
        if protocol.get("stride") is not None:
            parts.append(f"stride {protocol['stride']}")
    else:
        mode = protocol.get("context_mode")
        context = "no context" if not protocol.get("context") else f"context {protocol['context']}"
        parts.append(f"chunk {protocol.get('chunk', DASH)}")
        parts.append(context + (f" ({mode})" if protocol.get("context") else ""))
    prefix = protocol.get("prefix_id")
    parts.append("no prefix token" if prefix is None else f"prefix token {prefix}")
    reset = protocol.get("reset")
    parts.append("never reset" if reset == "never" else f"reset at each {reset or DASH}")
    parts.append(listed(str(run.manifest.get("dtype", DASH)) for run in runs))
    lanes = listed(str(run.lanes or DASH) for run in runs)
    parts.append(f"{lanes} lane" if lanes == "1" else f"{lanes} lanes")
    parts.append(_hardware(runs))
    return ", ".join(parts)


def _hardware(runs: Sequence[Run]) -> str:
    name = runs[0].device or DASH
    machine = runs[0].manifest.get("platform")
    if name != "cpu" or not isinstance(machine, dict) or not machine.get("cpu"):
        return name
    return f"cpu ({machine['cpu']}, {machine.get('cores', DASH)} cores)"


def _difference_notes(rows: Sequence[Mapping[str, Any]], baseline: str) -> list[tuple[str, str]]:
    notes = []
    for row in rows:
        if row["delta_reason"] and row["delta_documents"] is not None:
            refused = row["delta_nats_per_token"] is None
            notes.append(
                (f"not compared with {baseline}: {row['delta_reason']}", row["label"])
                if refused
                else (row["delta_reason"], "")
            )
        elif row["documents_missing"] and row["documents_done"]:
            done = missing_reason(row["documents_done"], row["documents_missing"])
            notes.append((f"no perplexity: {done}", row["label"]))
        if row["delta_nats_per_token"] is not None and row["delta_unpaired_documents"]:
            both, more = row["delta_documents"], row["delta_unpaired_documents"]
            text = (
                f"Δ over {both:,} of {plural(both + more, 'document')}, those that both this row "
                f"and {baseline} have done"
            )
            notes.append((text, row["label"]))
    return notes


def _cost_notes(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    notes = []
    for row in rows:
        if row["flops_agree"] is False or row["flops_note"]:
            amounts = (
                f"{si(row['flops_per_token'])} a token by formula, "
                f"{si(row['flops_per_token_counted'])} counted"
            )
            title = "FLOPs disagree" if row["flops_agree"] is False else "FLOPs"
            notes.append((f"{title}: {row['flops_note'] or amounts}", row["label"]))
        if row["offline_seconds"] or row["offline_flops"]:
            seconds = row["offline_seconds"] or 0
            took = [duration(seconds)] if seconds >= 1 else []  # less says nothing of training
            took += [f"{si(row['offline_flops'])}FLOPs"] if row["offline_flops"] else []
            notes.append((f"trained offline once ({', '.join(took)}), not counted", row["label"]))
    return notes


def _remarks(
    runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Mapping[str, Any]]]:
    pairs = zip(runs, rows, strict=True)
    return [
        (text, row)
        for run, row in pairs
        for text in (*run.warnings, *run.notes)
        if not text.startswith("NOT VALID")  # older runs have their verdict here, too
    ]


def _grouped(notes: Sequence[tuple[str, str]], total: int) -> list[str]:
    """Each note once, with the methods it is about unless it is about all of them."""
    methods: dict[str, list[str]] = {}
    for text, method in notes:
        methods.setdefault(text, []).append(method)
    return [
        text if len(about) == total or not any(about) else f"{listed(about)}: {text}"
        for text, about in methods.items()
    ]
