"""One run: a method in an opened setting, measured and stored, whatever the method does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.audit.audit import audit_mode
from tta_bench.documents.limits import limits_as_flags
from tta_bench.errors import StorageError
from tta_bench.evaluation.audited import audit_run, frozen_model
from tta_bench.evaluation.measure import Measurement
from tta_bench.evaluation.verdict import judge

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.setting import Setting
    from tta_bench.store import RunWriter

SINKS_NOTE = (
    "documents are longer than chunk and context: the cache drops the first tokens' keys, and many "
    "models predict badly without them (attention sinks); compare with --context-mode recompute."
)
CACHE_NOTE = "a carried cache grows with the stream, so the model itself runs uncompiled."


def run_method(
    setting: Setting, choice: MethodChoice, writer: RunWriter, observer: Observer, debug: bool
) -> bool:
    """Runs one method, audits and stores it; a method that fails leaves a run that says so.

    Args:
        setting: model and documents.
        choice: the method.
        writer: the run's files, with the rows of former sessions that stand.
        observer: is told how far it has come.
        debug: let an exception of the method through.

    Returns:
        Whether the shared model is as it was; if not, it must be loaded anew.
    """
    notes = _tell_what_is_known(setting, choice, writer, observer)
    mode = audit_mode(setting.spec.audit)
    frozen = frozen_model(setting)
    measurement = Measurement(setting, choice, writer, observer, debug)
    try:
        summary = measurement.run()
    except (Exception, SystemExit) as error:  # a method is foreign code: it may raise anything
        if debug or _concerns_storage(error):
            raise
        summary = measurement.broken(error)
        observer.note(f"{choice.spec}: {summary['reason']}")
    report = audit_run(measurement.setup, setting, summary, writer.path, frozen, mode)
    unharmed = not report.spoiled
    if report.spoiled:
        frozen.process.restore()
        summary |= {"status": "error", "reason": report.spoiled}
    verdict = judge(choice, None if mode == "off" else report)
    for sentence in verdict.sentences:
        observer.note(f"{choice.spec}: {sentence}")
    for sentence in verdict.probed:
        observer.remark(f"{choice.spec}: {sentence}")
    cuts = limits_as_flags(vars(setting.spec.limits))
    facts = {**verdict.to_dict(), "notes": notes, "isolated": setting.spec.isolate}
    facts |= {"partial": bool(cuts), "partial_reason": cuts}
    writer.finish(summary | facts)
    observer.end_method(summary["status"])
    return unharmed


def _tell_what_is_known(
    setting: Setting, choice: MethodChoice, writer: RunWriter, observer: Observer
) -> list[str]:
    """Announces the run; returns the notes that belong to its summary."""
    documents, kept = setting.documents, writer.kept
    for note in writer.notes:
        observer.note(f"{choice.spec}: {note}")
    if kept:
        observer.remark(f"{choice.spec}: {len(kept)} of {len(documents)} documents are kept")
    tokens = documents.total_tokens - int(documents.lengths[list(kept)].sum())
    observer.start_method(choice.spec, len(documents) - len(kept), tokens)
    notes = [SINKS_NOTE] if setting.evicts_sinks else []
    if setting.spec.compile == "on" and setting.protocol.context_mode == "cache":
        notes.append(CACHE_NOTE)
    for note in notes:
        observer.note(f"{choice.spec}: {note}")
    return notes


def _concerns_storage(error: BaseException) -> bool:
    """A disk that cannot be written ends everything, not one method."""
    return isinstance(error, (OSError, StorageError))
