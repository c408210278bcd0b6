"""One run: a method in an opened setting, measured and stored, whatever the method does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.documents.limits import limits_as_flags
from tta_bench.errors import MethodError
from tta_bench.evaluation.measure import Measurement
from tta_bench.validity.check import quick_checks

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.contract.method import Method
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.setting import Setting
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.store import RunWriter

SINKS_NOTE = (
    "documents are longer than chunk and context: the cache drops the first tokens' keys, and many "
    "models predict badly without them (attention sinks); compare with --context-mode recompute."
)
CACHE_NOTE = "a carried cache grows with the stream, so the model itself runs uncompiled."
WEIGHTS_CHANGED = "it changed the model's shared weights"
WEIGHTS_HINT = "keep weights of your own and pass them to model.logits(window, weights)."


def run_method(
    setting: Setting, choice: MethodChoice, writer: RunWriter, observer: Observer, debug: bool
) -> None:
    """Runs one method and stores it; a method that fails leaves a run that says so.

    Args:
        setting: model and documents.
        choice: the method.
        writer: the run's files, with the rows of former sessions that stand.
        observer: is told how far it has come.
        debug: let an exception of the method through.

    Raises:
        MethodError: the method changed the weights that all methods share.
    """
    notes = _tell_what_is_known(setting, choice, writer, observer)
    valid, broken_rules = _validity(choice)
    if broken_rules:
        notes.append(f"NOT VALID: `tta-bench check` fails at {', '.join(broken_rules)}.")
        observer.note(f"{choice.spec}: {notes[-1]}")
    weights = _weight_sums(setting.model)
    measurement = Measurement(setting, choice, writer, observer, debug)
    try:
        summary = measurement.run()
    except (Exception, SystemExit) as error:  # a method is foreign code: it may raise anything
        if debug or _concerns_storage(error):
            raise
        summary = measurement.broken(error)
        observer.note(f"{choice.spec}: {summary['reason']}")
    if not torch.equal(weights, _weight_sums(setting.model)):
        summary |= {"status": "error", "reason": WEIGHTS_CHANGED}
    cuts = limits_as_flags(vars(setting.spec.limits))
    facts = {
        "valid": valid,
        "rules_broken": broken_rules,
        "notes": notes,
        "partial": cuts is not None,
        "partial_reason": cuts,
    }
    writer.finish(summary | facts)
    observer.end_method(summary["status"])
    if summary["reason"] == WEIGHTS_CHANGED:
        raise MethodError(f"{choice.spec} changed the model's shared weights; {WEIGHTS_HINT}")


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
    return isinstance(error, OSError) or isinstance(error.__cause__, OSError)


_VERDICTS: dict[tuple[type[Method], str], tuple[bool | None, list[str]]] = {}


def _validity(choice: MethodChoice) -> tuple[bool | None, list[str]]:
    """The verdict of the quick probes on tiny random models, and the rules that were broken.

    Once for all settings: the probes know neither the model nor the documents.
    """
    key = choice.cls, choice.spec
    if key not in _VERDICTS:
        try:
            report = quick_checks(choice.cls, choice.cls.probe_params(choice.params), choice.name)
            _VERDICTS[key] = report.valid, list(report.failed)
        except SystemExit:  # it will raise again in its run, and its row will say so
            _VERDICTS[key] = None, []
    return _VERDICTS[key]


def _weight_sums(model: LanguageModel) -> Tensor:
    """One number a parameter, to see whether a method changed the weights that all share."""
    return torch.stack([value.sum(dtype=torch.float64) for value in model.net.parameters()])
