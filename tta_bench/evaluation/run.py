"""One run in this process: a method in an opened setting, measured, audited and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tta_bench.evaluation.part import Part, PartEnd
from tta_bench.evaluation.part_costs import run_costs
from tta_bench.evaluation.record import Record

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.setting import Setting
    from tta_bench.store import RunWriter


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
    record = Record(setting, choice, writer, observer)
    part = Part(setting, choice, artifacts_of(writer), record, debug)
    lanes = part.set_up(setting.lanes, len(record.pending))
    part.read(record.pending, lanes)
    summary: dict[str, Any] = {}
    if part.broken is not None:
        summary = record.broken(*part.broken, part.measurement.lanes)
    end = part.end(writer.path, record.shapes)
    if end.costs is not None:
        summary = record.status() | run_costs([end.costs], end.flops_per_token)
    record.close(summary | spoiled_status(end), end.verdict)
    return end.spoiled is None


def artifacts_of(writer: RunWriter) -> dict[str, Any]:
    """The hashes of the files that a method loads, as its manifest has them."""
    return writer.manifest["method"].get("artifacts") or {}


def spoiled_status(end: PartEnd) -> dict[str, str]:
    """The status of a run whose method changed the shared model, for its summary; else nothing."""
    return {} if end.spoiled is None else {"status": "error", "reason": end.spoiled.sentence}
