"""`tta_bench.check`: whether a method obeys the rules of the benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.errors import UsageError
from tta_bench.library.given import chosen_methods
from tta_bench.library.shown import Shown
from tta_bench.tables.findings import findings_table
from tta_bench.validity.check import run
from tta_bench.validity.limit import LIMIT_SECONDS
from tta_bench.validity.probes import FULL
from tta_bench.validity.subject import Subject

if TYPE_CHECKING:
    from tta_bench.library.given import OneMethod
    from tta_bench.tables import Table
    from tta_bench.validity import ValidityReport


class Checked(Shown):
    """What the probes found; it shows itself as their table.

        checked = tta_bench.check(MyMethod)
        assert checked.valid, checked.report.failed

    Attributes:
        report: one entry for each probe, and the time that they took.
    """

    def __init__(self, report: ValidityReport):
        self.report = report

    @property
    def valid(self) -> bool | None:
        """True if the method may be ranked, False if a probe failed, None if it was not judged."""
        return self.report.valid

    def tables(self) -> list[Table]:
        table = findings_table(
            self.report.method, "probe", [vars(result) for result in self.report.results]
        )
        notes = [f"note: {note}" for note in self.report.notes]
        last = f"{self.report.summary} ({self.report.seconds:.1f} s)"
        return [type(table)(table.title, table.columns, table.rows, [*notes, last])]

    def __repr__(self) -> str:
        return str(self)


def check(method: OneMethod, seconds: float | None = LIMIT_SECONDS) -> Checked:
    """Runs every probe on a method, on tiny random models, as `tta-bench check` does.

        tta_bench.check("dynamic-eval:lr=1e-3").valid
        tta_bench.check(MyMethod.Params(rate=0.1))

    Args:
        method: a spec, a class derived from `Method`, or an instance of its `Params`.
        seconds: the time after which the remaining probes are skipped; None: no limit.

    Raises:
        UsageError: an unknown method or parameter, or several of them.
        MethodError: the method cannot be imported, or is not complete.
    """
    with chosen_methods(method) as choices:
        if len(choices) != 1:
            raise UsageError("check takes one method; call it for each.")
        (choice,) = choices
        return Checked(run(Subject.of(choice.name, choice.cls, choice.params), FULL, seconds))
