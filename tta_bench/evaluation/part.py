"""A part of a run: what one process does of it, and, for the last of them, what it ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.auditing.audit import audit_mode
from tta_bench.engine.outcome import outcome_of
from tta_bench.errors import ChangedError, StorageError
from tta_bench.evaluation.audited import audit_run, frozen_model
from tta_bench.evaluation.measure import Measurement, Sink
from tta_bench.evaluation.part_costs import PartCosts
from tta_bench.evaluation.verdict import Verdict, judge

if TYPE_CHECKING:
    from tta_bench.auditing.finding import AuditReport, Finding
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.setting import Setting
    from tta_bench.model.step_shape import StepShape

Broken = tuple[str, str]
"""The status and the reason of a method that could not be set up or broke off."""


@dataclass(frozen=True)
class PartEnd:
    """How a part ended.

    Attributes:
        costs: what it measured; None if the method broke off.
        spoiled: the finding that the method changed the shared model; None if it did not.
        broken: why the method broke off; None if it did not.
    """

    costs: PartCosts | None
    spoiled: Finding | None
    broken: Broken | None


@dataclass(frozen=True)
class RunEnd(PartEnd):
    """How the last part of a run ended.

    Attributes:
        flops_per_token: FLOPs per scored token of the whole run; None if they are not known.
        verdict: on the whole run.
    """

    flops_per_token: float | None
    verdict: Verdict


class Part:
    """One method in this process: it takes the model down, reads documents, and compares.

    Args:
        setting: model and documents.
        choice: the method.
        artifacts: the hashes of the files that the method loads, as the manifest has them.
        sink: takes what is found.
        debug: let exceptions of the method through.

    Attributes:
        broken: why the method could not go on; None while it can.
    """

    def __init__(
        self,
        setting: Setting,
        choice: MethodChoice,
        artifacts: Mapping[str, Any],
        sink: Sink,
        debug: bool,
    ):
        self.setting, self.choice = setting, choice
        self.frozen = frozen_model(setting)
        self.measurement = Measurement(setting, choice, artifacts, sink, debug)
        self.broken: Broken | None = None
        self._debug = debug

    def set_up(self, lanes: int | None, documents: int) -> int:
        """Builds the method for so many documents; None: on as many lanes as fit.

        Returns:
            The lanes that it was to have.
        """
        with self._guard():
            lanes = lanes or self.measurement.lanes_that_fit(documents)
            self.measurement.set_up(lanes)
        return lanes or 1

    def read(self, indices: Sequence[int], lanes: int) -> None:
        """Reads documents, unless the method broke off before.

        Behind a document in which the method raises, a fresh instance goes on, so that no number
        depends on who reads what. Under `--reset never` there is nothing to go on with.
        """
        left = list(indices)
        while left and self.broken is None:
            with self._guard():
                left = self.measurement.read(left, lanes)
            if self.setting.protocol.reset == "never":
                return

    def leave(self) -> PartEnd:
        """Ends this part of a run that others go on with."""
        costs = self._costs()
        self.measurement.end()
        report = audit_run(self.measurement.setup, self.setting, {}, None, self.frozen, "off")
        return PartEnd(costs, self._restored(report), self.broken)

    def end(
        self,
        path: Path,
        shapes: Mapping[StepShape, int],
        spoiled: Finding | None = None,
        broken: bool = False,
    ) -> RunEnd:
        """Ends the run.

        Args:
            path: the run's folder, with all its rows.
            shapes: how often a step of each shape was taken.
            spoiled: what another part's method changed there.
            broken: whether it broke off in another part.
        """
        costs = None if broken else self._costs()
        flops = None
        if costs is not None:
            with self._guard():
                flops = self.measurement.flops_per_token(shapes)
        self.measurement.end()
        facts: dict[str, Any] = {}
        if costs is not None:
            facts = {"lanes": costs.lanes, "compiled": costs.compiled}
            facts["flops_check"] = {"counted": costs.flops.counted}
        mode = audit_mode(self.setting.spec.audit)
        report = audit_run(self.measurement.setup, self.setting, facts, path, self.frozen, mode)
        own = self._restored(report)
        if own is None and spoiled is not None:
            kept = tuple(one for one in report.findings if one.check != "frozen")
            report = replace(report, findings=(*kept, spoiled))
        verdict = judge(self.choice, None if mode == "off" else report)
        return RunEnd(costs, own, self.broken, flops, verdict)

    def _costs(self) -> PartCosts | None:
        costs = None
        if self.broken is None:
            with self._guard():
                costs = self.measurement.costs()
        return costs if self.broken is None else None

    def _restored(self, report: AuditReport) -> Finding | None:
        """What the report says the method changed; the process is put right, the model is not."""
        if not report.spoiled:
            return None
        self.frozen.process.restore()
        return next(one for one in report.findings if one.check == "frozen")

    def _guard(self) -> _Guard:
        return _Guard(self, self._debug)


class _Guard:
    """Takes down what a method raises: it is foreign code and may raise anything.

    A disk that cannot be written, or a file that changed, ends everything, not one method.
    """

    def __init__(self, part: Part, debug: bool):
        self.part, self.debug = part, debug

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> bool:
        if not isinstance(error, (Exception, SystemExit)) or self.debug:
            return False
        if isinstance(error, (OSError, StorageError, ChangedError)):
            return False
        self.part.broken = outcome_of(error)
        return True
